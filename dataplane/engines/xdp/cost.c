/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Programs for cost.py. The kernel's test bench gives a program the same packet over
 * and over, as it left it: a reply would be what comes next. So the request is put
 * back each time, which is measured by itself, too.
 */
#include "reflect.h"

#define WORDS_MAX 40

struct original {
	__u64 words;
	__u64 word[WORDS_MAX];		/* the request's first bytes, all that a reply changes */
};

BPF_F_TABLE("array", int, struct original, originals, 1, BPF_F_MMAPABLE);

static __always_inline void put_back(struct xdp_md *ctx)
{
	int index = 0;
	struct original *original = originals.lookup(&index);
	__u64 *at = (void *)(long)ctx->data;

	if (!original)
		return;
	for (int i = 0; i < WORDS_MAX; i++) {
		if (i >= original->words || (void *)(at + i + 1) > (void *)(long)ctx->data_end)
			break;
		at[i] = original->word[i];
	}
}

int reflector(struct xdp_md *ctx)
{
	int action = run_reflector(ctx);

	put_back(ctx);
	return action;
}

int nothing(struct xdp_md *ctx)
{
	put_back(ctx);
	return XDP_TX;
}

int data_path(struct xdp_md *ctx)
{
	return run_reflector(ctx);
}

int bare_tx(struct xdp_md *ctx)
{
	return XDP_TX;
}

int bare_pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}
