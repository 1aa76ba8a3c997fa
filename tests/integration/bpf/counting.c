// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
#include <uapi/linux/bpf.h>
#include "counted.h"
#include "counted.h"

BPF_F_TABLE("array", int, struct counted, shared, 1, BPF_F_MMAPABLE);
BPF_TABLE("percpu_array", int, u64, everywhere, 1);
BPF_TABLE("hash", u16, u64, by_name, 4);

int counting(struct xdp_md *ctx)
{
	int index = 0;
	struct counted *counted = shared.lookup(&index);
	u64 *here = everywhere.lookup(&index);

	if (counted && here) {
		counted->packets++;
		counted->bytes += ctx->data_end - ctx->data;
		(*here)++;
	}
	return ACTION;
}
