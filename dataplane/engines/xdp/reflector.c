/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The Session-Reflector at the XDP hook, by itself. */
#include "reflect.h"

int reflector(struct xdp_md *ctx)
{
	return run_reflector(ctx);
}

/* Run by user space, never attached. */
int take_numbers(struct xdp_md *ctx)
{
	return take_some_numbers(ctx);
}
