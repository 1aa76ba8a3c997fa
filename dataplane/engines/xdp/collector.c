/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The Collector at the XDP hook, by itself, and what user space controls it with. */
#include "control.h"

int collector(struct xdp_md *ctx)
{
	return run_collector(ctx);
}

int control(struct xdp_md *ctx)
{
	return run_control(ctx);
}
