// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// Reads what may not be there.
#include <uapi/linux/bpf.h>

int refused(struct xdp_md *ctx)
{
	return *(u8 *)(long)ctx->data;
}
