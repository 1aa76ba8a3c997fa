/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The Session-Reflector at the XDP hook, by itself. */
#include "reflect.h"

int reflector(struct xdp_md *ctx)
{
	struct reflector_config *config;
	struct packet packet;

	if (find_udp(ctx, &packet) != FOUND_UDP)
		return XDP_PASS;
	config = reflector_of(&packet);
	if (!config)
		return XDP_PASS;
	return reflect(ctx, &packet, config);
}
