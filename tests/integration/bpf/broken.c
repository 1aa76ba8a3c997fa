// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
#include <uapi/linux/bpf.h>
int broken(struct xdp_md *ctx)
{
	return nowhere;
}
