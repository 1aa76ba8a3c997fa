/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What programs ask about the node that they run on: its clock, its interfaces,
 * its addresses and SIDs. User space keeps the maps up to date.
 */
#ifndef STAMP_NODE_H
#define STAMP_NODE_H

#include "parse.h"
#include "shared.h"

#define LOCALS_MAX 4096
#define INTERFACES_MAX 2048

BPF_F_TABLE("array", int, struct clock, clocks, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("hash", struct interface_key, struct interface, interfaces, INTERFACES_MAX,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct address, struct local, locals, LOCALS_MAX, BPF_F_NO_PREALLOC);

static __always_inline struct address mapped_ipv4(__be32 ipv4)
{
	return (struct address){ .word = { 0, 0, htonl(0xffff), ipv4 } };
}

static __always_inline struct address ipv6_address(const struct in6_addr *ipv6)
{
	const __be32 *word = ipv6->in6_u.u6_addr32;

	return (struct address){ .word = { word[0], word[1], word[2], word[3] } };
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return !((a->word[0] ^ b->word[0]) | (a->word[1] ^ b->word[1]) |
		 (a->word[2] ^ b->word[2]) | (a->word[3] ^ b->word[3]));
}

static __always_inline int is_mapped_ipv4(const struct address *address)
{
	return !(address->word[0] | address->word[1]) && address->word[2] == htonl(0xffff);
}

/* No packet from anywhere else has it (RFC 4291 section 2.5.3). */
static __always_inline int is_loopback(const struct address *address)
{
	return !(address->word[0] | address->word[1] | address->word[2]) &&
	       address->word[3] == htonl(1);
}

/*
 * Both ends of the innermost packet; negative where they cannot be read, or where IPv6
 * claims an address that is IPv4's here, or the loopback's, which the kernel is to judge.
 */
static __always_inline int read_addresses(const struct xdp_md *ctx, const struct packet *packet,
					  struct address *source, struct address *destination)
{
	if (packet->version == 6) {
		struct ipv6hdr *ip6 = bytes_at(ctx, packet->ip_at, sizeof(*ip6));

		if (!ip6)
			return -1;
		*source = ipv6_address(&ip6->saddr);
		*destination = ipv6_address(&ip6->daddr);
		if (is_mapped_ipv4(source) || is_mapped_ipv4(destination) ||
		    is_loopback(source) || is_loopback(destination))
			return -1;
	} else {
		struct iphdr *ip4 = bytes_at(ctx, packet->ip_at, sizeof(*ip4));

		if (!ip4)
			return -1;
		*source = mapped_ipv4(ip4->saddr);
		*destination = mapped_ipv4(ip4->daddr);
	}
	return 0;
}

/* Whether the kernel would give the packet, encapsulated or not, to a socket here. */
static __always_inline int has_address(struct address *address, __u32 why)
{
	struct local *local = locals.lookup(address);

	return local && local->flags & why;
}

/* The same of the outer header alone: nothing to ask where there is none. */
static __always_inline int decapsulates(const struct xdp_md *ctx, const struct packet *packet)
{
	struct ipv6hdr *ip6;
	struct address outer;

	if (!packet->encapsulated)
		return 1;
	ip6 = bytes_at(ctx, packet->network_at, sizeof(*ip6));
	if (!ip6)
		return 0;
	outer = ipv6_address(&ip6->daddr);
	return has_address(&outer, packet->version == 6 ? LOCAL_DECAPSULATES_IPV6
							: LOCAL_DECAPSULATES_IPV4);
}

/*
 * An IPv4 source that the kernel takes for a martian, or may: no part of the Internet
 * (RFC 1122 section 3.2.1.3), or this node itself.
 */
static __always_inline int is_martian(struct address *source)
{
	__u8 network = ntohl(source->word[3]) >> 24;

	return network == 0 || network == 127 || network >= 224 ||
	       has_address(source, LOCAL_ADDRESS);
}

static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	return !((*(__u32 *)a ^ *(__u32 *)b) | (*(__u16 *)(a + 4) ^ *(__u16 *)(b + 4)));
}

/* The device that a frame belongs to; NULL where it is not a configured one. */
static __always_inline struct interface *device_of(const struct packet *packet)
{
	struct interface_key key = {
		.ifindex = packet->ifindex,
		.vlan = { packet->vlan[0], packet->vlan[1] },
	};

	return interfaces.lookup(&key);
}

/* Whether a device takes the frame for its own, and the SRHs in it, which have no HMAC. */
static __always_inline int takes(const struct xdp_md *ctx, const struct packet *packet,
				 const struct interface *device)
{
	struct ethhdr *eth = bytes_at(ctx, 0, sizeof(*eth));

	return eth && same_mac(eth->h_dest, device->mac) &&
	       (!packet->routed || device->flags & INTERFACE_SRV6) &&
	       !(packet->outer_routed && device->flags & INTERFACE_SIGNED);
}

#endif
