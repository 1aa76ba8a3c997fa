/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Where a reply goes: what the FIB says about it, remembered for a tenth of a second
 * for each session and CPU.
 *
 * Where the FIB does not answer, because the loopback interface does not forward
 * (BPF_FIB_LKUP_RET_FWD_DISABLED; see fib.py), a reply goes back to the neighbour that
 * the request came from.
 */
#ifndef STAMP_NEXT_HOP_H
#define STAMP_NEXT_HOP_H

#include "../driver/node.h"
#include "../driver/timestamp.h"
#include "reflection.h"

#define NEXT_HOP_NS (NS_PER_S / 10)
#define FAMILY_IPV4 2
#define FAMILY_IPV6 10
#define LOOPBACK_IFINDEX 1

BPF_TABLE("percpu_array", int, struct next_hop, next_hops, SESSIONS_MAX);

/* What a reply is to be sent with. */
struct journey {
	struct address local;		/* its source */
	struct address next;		/* its destination, or its first segment */
	__u64 now_ns;
	__u32 epoch;
	__u32 slot;
	__be32 flow;			/* what of the first word of the IP header routes it */
	__u32 version;			/* of IP */
	__be16 local_port;
	__be16 port;			/* of its destination */
};

static __always_inline int is_fresh(const struct packet *packet,
				    const struct journey *journey, const struct next_hop *hop)
{
	return hop->until_ns - journey->now_ns <= NEXT_HOP_NS && hop->epoch == journey->epoch &&
	       hop->ingress == packet->ifindex && hop->vlan[0] == packet->vlan[0] &&
	       hop->vlan[1] == packet->vlan[1] && hop->flow == journey->flow &&
	       hop->local_port == journey->local_port && hop->port == journey->port &&
	       same_address(&hop->local, &journey->local) &&
	       same_address(&hop->next, &journey->next);
}

/*
 * To the neighbour that the request came from, through the device that it came through.
 * Without the FIB nobody knows whether its IPv4 source is to be believed.
 */
static __always_inline int turn_back(struct xdp_md *ctx, const struct journey *journey,
				     struct next_hop *hop)
{
	__u32 mtu = 0;

	if (journey->version == 4 && hop->device.flags & (INTERFACE_LOOSE | INTERFACE_STRICT))
		return -1;
	if (bpf_check_mtu(ctx, 0, &mtu, 0, 0) < 0)
		return -1;
	hop->mtu = mtu;
	hop->egress = 0;
	return 0;
}

static __always_inline void ask_about(const struct journey *journey, struct bpf_fib_lookup *fib)
{
	if (journey->version == 6) {
		fib->family = FAMILY_IPV6;
		fib->flowinfo = journey->flow;
		__builtin_memcpy(fib->ipv6_src, &journey->local, sizeof(journey->local));
		__builtin_memcpy(fib->ipv6_dst, &journey->next, sizeof(journey->next));
	} else {
		fib->family = FAMILY_IPV4;
		fib->tos = ntohl(journey->flow) >> 16;
		fib->ipv4_src = journey->local.word[3];
		fib->ipv4_dst = journey->next.word[3];
	}
}

/* As a packet of this node's own would be routed; negative where a driver cannot send it. */
static __always_inline int ask_fib(struct xdp_md *ctx, const struct packet *packet,
				   const struct journey *journey, struct next_hop *hop)
{
	struct interface_key egress = {};
	struct interface *out;
	struct bpf_fib_lookup fib = {
		.l4_protocol = NEXT_HEADER_UDP,
		.sport = journey->local_port,
		.dport = journey->port,
		.tot_len = 1,
		.ifindex = LOOPBACK_IFINDEX,
	};
	int result;

	ask_about(journey, &fib);
	result = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	if (result == BPF_FIB_LKUP_RET_FWD_DISABLED)
		return turn_back(ctx, journey, hop);
	if (result != BPF_FIB_LKUP_RET_SUCCESS)
		return -1;
	/* The route to an IPv4 sender is the one that its address is judged by. */
	if (journey->version == 4 && hop->device.flags & INTERFACE_STRICT &&
	    fib.ifindex != hop->device.ifindex)
		return -1;
	egress.ifindex = fib.ifindex;
	out = interfaces.lookup(&egress);
	if (fib.ifindex == hop->device.ifindex)
		hop->egress = packet->ifindex;
	/* No frame leaves a driver for an interface whose own, or whose other end, takes none. */
	else if (!packet->tags && out && !(out->flags & ~hop->device.flags & INTERFACE_GENERIC))
		hop->egress = fib.ifindex;
	else
		return -1;
	/* The union's other meaning, once the length has been compared with it. */
	hop->mtu = fib.tot_len;
	__builtin_memcpy(hop->destination_mac, fib.dmac, sizeof(fib.dmac));
	__builtin_memcpy(hop->source_mac, fib.smac, sizeof(fib.smac));
	return 0;
}

/* Whether a reply has gone that way a moment ago, so that the packet is ours. */
static __always_inline int answered_lately(const struct xdp_md *ctx, const struct packet *packet,
					   const struct journey *journey)
{
	int slot = journey->slot;
	struct next_hop *hop = next_hops.lookup(&slot);

	return hop && !packet->encapsulated && is_fresh(packet, journey, hop) &&
	       takes(ctx, packet, &hop->device);
}

/* NULL where the driver cannot send the reply. */
static __always_inline struct next_hop *find_next_hop(struct xdp_md *ctx,
						      const struct packet *packet,
						      const struct journey *journey)
{
	int slot = journey->slot;
	struct next_hop *hop = next_hops.lookup(&slot);
	struct interface *device;

	if (!hop || is_fresh(packet, journey, hop))
		return hop;
	hop->until_ns = 0;
	device = device_of(packet);
	if (!device)
		return 0;
	hop->device = *device;
	if (ask_fib(ctx, packet, journey, hop))
		return 0;
	hop->local = journey->local;
	hop->next = journey->next;
	hop->flow = journey->flow;
	hop->local_port = journey->local_port;
	hop->port = journey->port;
	hop->epoch = journey->epoch;
	hop->ingress = packet->ifindex;
	hop->vlan[0] = packet->vlan[0];
	hop->vlan[1] = packet->vlan[1];
	hop->until_ns = journey->now_ns + NEXT_HOP_NS;
	return hop;
}

#endif
