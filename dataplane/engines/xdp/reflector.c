/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The Session-Reflector at the XDP hook, by itself. */
#include "reflect.h"

int reflector(struct xdp_md *ctx)
{
	return run_reflector(ctx);
}
