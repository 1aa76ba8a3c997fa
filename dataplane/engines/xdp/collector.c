/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The Collector at the XDP hook, by itself or in front of another program. */
#include "control.h"

int collector(struct xdp_md *ctx)
{
	return run_collector(ctx);
}

int control(struct xdp_md *ctx)
{
	return run_control(ctx);
}

int controls(struct xdp_md *ctx)
{
	return run_controls(ctx);
}

BPF_PROG_ARRAY(next_programs, 1);

/* On an interface that another program serves as well. */
int collector_first(struct xdp_md *ctx)
{
	struct packet packet;

	/* The other one may have the same port, at another address. */
	if (find_udp(ctx, &packet) == FOUND_UDP && is_collected(&packet) &&
	    collect(ctx, &packet) != XDP_PASS)
		return XDP_DROP;
	next_programs.call(ctx, 0);
	return XDP_PASS;
}
