/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * From a frame to the UDP packet in it.
 *
 * The contract, for every function here:
 *
 * - Nothing beyond data_end is read, whatever the packet says about itself.
 * - The frame is not changed.
 * - Offsets are from the start of the frame. `bytes_at` makes pointers of them, which
 *   are good until the first bpf_xdp_adjust_*().
 *
 * What is recognised:
 *
 *   Ethernet, [VLAN, [VLAN]],
 *   [IPv6, [SRH with Segments Left 0]]     where the packet is encapsulated,
 *   IPv6, [SRH with Segments Left 0], [Fragment], [options] | IPv4,
 *   UDP
 *
 * Options are Hop-by-Hop or Destination Options, and whatever comes behind the first of
 * them: EXTENSIONS_MAX extension headers at most, in any order, SRHs with Segments Left 0
 * and Fragment among them. The kernel judges them; a packet with more, and one that is
 * encapsulated behind options, is not recognised.
 *
 * `find_udp` says what the frame is without asking whose it is: addresses are for
 * the caller to judge, the outer destination with them. The ports come with it, so
 * that a caller lets go of data traffic before it spends more on it.
 *
 * A caller that goes on does so with `keep`: it forgets, for the verifier, by which
 * of some forty ways the packet was found, which would multiply what it has to check.
 */
#ifndef STAMP_PARSE_H
#define STAMP_PARSE_H

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/seg6.h>
#include <uapi/linux/udp.h>

#include "shared.h"

#define NEXT_HEADER_HOP_BY_HOP 0
#define NEXT_HEADER_IPV4 4
#define NEXT_HEADER_UDP 17
#define NEXT_HEADER_IPV6 41
#define NEXT_HEADER_ROUTING 43
#define NEXT_HEADER_FRAGMENT 44
#define NEXT_HEADER_DESTINATION 60

#define EXTENSIONS_MAX 4

#define VLAN_ID_MASK 0x0fff

struct vlan_tag {
	__be16 control;			/* priority, drop eligible, identifier */
	__be16 next_type;
};

struct fragment_header {		/* RFC 8200 section 4.5 */
	__u8 next_header;
	__u8 reserved;
	__be16 offset;			/* 13 bits of offset, 2 reserved, M */
	__be32 identification;
};

struct options_header {			/* RFC 8200 section 4.2 */
	__u8 next_header;
	__u8 length;			/* in units of 8 bytes, the first one not counted */
};

enum found {
	FOUND_OTHER,			/* no UDP that is known by this file: pass it on */
	FOUND_UDP,			/* `udp` has 8 bytes that can be read */
};

/* What keeps a UDP packet from being handled in the driver; of several the last one found. */
enum form {
	FORM_PLAIN,
	FORM_FRAGMENT,			/* the first one: there are ports, but not all bytes */
	FORM_SRH_TLV,			/* the kernel judges the TLVs (HMAC) */
	FORM_OPTIONS,			/* the kernel judges the options, of IPv4 or IPv6 */
	FORM_LENGTH,			/* the outer packet ends elsewhere than the inner one */
};

struct packet {
	__u32 ifindex;			/* where it arrived */
	__u32 network_at;		/* the outermost IP header: length of layer 2 */
	__u32 ip_at;			/* the innermost IP header */
	__u32 ip_end;			/* where its packet ends, by its length */
	__u32 udp_at;
	__u32 end;			/* of the frame */
	__u32 vlan[VLAN_TAGS_MAX];	/* as in struct interface_key */
	__be16 source_port;
	__be16 destination_port;
	__u8 tags;			/* VLAN tags */
	__u8 version;			/* of the innermost IP */
	__u8 encapsulated;		/* the IPv6 header at network_at is not at ip_at */
	__u8 form;			/* enum form */
	__u8 routed;			/* the innermost IP header has an SRH, */
	__u8 outer_routed;		/* or the one that it is encapsulated in */
};

/* Beyond what any driver keeps in one piece. */
#define OFFSET_MAX 0x1fff

BPF_TABLE("percpu_array", int, struct packet, packets, 1);

struct cursor {
	void *data;
	void *at;
	void *end;
	__u8 next_header;
};

static __always_inline int has_room(const struct cursor *cursor, int size)
{
	return cursor->at + size <= cursor->end;
}

/* `size` bytes at an offset; NULL if they are not all there. */
static __always_inline void *bytes_at(const struct xdp_md *ctx, __u32 offset, int size)
{
	void *at = (void *)(long)ctx->data + (offset & OFFSET_MAX);

	return at + size <= (void *)(long)ctx->data_end ? at : 0;
}

static __always_inline int find_vlans(struct packet *packet, struct cursor *cursor, __be16 *type)
{
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		struct vlan_tag *tag = cursor->at;

		if (*type != htons(ETH_P_8021Q) && *type != htons(ETH_P_8021AD))
			break;
		if (!has_room(cursor, sizeof(*tag)))
			return -1;
		packet->vlan[i] = (__u32)ntohs(*type) << 16 | (ntohs(tag->control) & VLAN_ID_MASK);
		packet->tags++;
		*type = tag->next_type;
		cursor->at += sizeof(*tag);
	}
	return 0;
}

/* An SRH that has been travelled to its end; -1 for any other. */
static __always_inline int find_srh(struct packet *packet, struct cursor *cursor)
{
	struct ipv6_sr_hdr *srh = cursor->at;

	if (!has_room(cursor, sizeof(*srh)))
		return -1;
	if (srh->type != IPV6_SRCRT_TYPE_4 || srh->segments_left != 0)
		return -1;
	/* In units of 8 bytes: two for each segment, the rest is TLVs. */
	if (srh->hdrlen < 2 * (srh->first_segment + 1))
		return -1;
	if (srh->hdrlen > 2 * (srh->first_segment + 1))
		packet->form = FORM_SRH_TLV;
	cursor->next_header = srh->nexthdr;
	cursor->at += 8 * (srh->hdrlen + 1);
	return 0;
}

static __always_inline int find_fragment(struct packet *packet, struct cursor *cursor)
{
	struct fragment_header *fragment = cursor->at;

	if (!has_room(cursor, sizeof(*fragment)))
		return -1;
	if (fragment->offset & htons(0xfff8))
		return -1;
	packet->form = FORM_FRAGMENT;
	cursor->next_header = fragment->next_header;
	cursor->at += sizeof(*fragment);
	return 0;
}

static __always_inline int is_options(__u8 next_header)
{
	return next_header == NEXT_HEADER_HOP_BY_HOP || next_header == NEXT_HEADER_DESTINATION;
}

/* Options, and what is between them and UDP. */
static __always_inline int find_options(struct packet *packet, struct cursor *cursor)
{
	struct options_header *options;

	if (packet->version != 6 || !is_options(cursor->next_header))
		return -1;
#pragma unroll
	for (int i = 0; i < EXTENSIONS_MAX && cursor->next_header != NEXT_HEADER_UDP; i++) {
		if (cursor->next_header == NEXT_HEADER_ROUTING) {
			packet->routed = 1;
			if (find_srh(packet, cursor))
				return -1;
		} else if (cursor->next_header == NEXT_HEADER_FRAGMENT) {
			if (find_fragment(packet, cursor))
				return -1;
		} else if (is_options(cursor->next_header)) {
			options = cursor->at;
			if (!has_room(cursor, sizeof(*options)))
				return -1;
			cursor->next_header = options->next_header;
			cursor->at += 8 * (options->length + 1);
		} else {
			return -1;
		}
	}
	packet->form = FORM_OPTIONS;
	return cursor->next_header == NEXT_HEADER_UDP ? 0 : -1;
}

/* One IPv6 header and its SRH. */
static __always_inline int find_ipv6(struct packet *packet, struct cursor *cursor)
{
	struct ipv6hdr *ip6 = cursor->at;

	if (!has_room(cursor, sizeof(*ip6)) || ip6->version != 6)
		return -1;
	packet->version = 6;
	packet->routed = ip6->nexthdr == NEXT_HEADER_ROUTING;
	packet->ip_at = cursor->at - cursor->data;
	packet->ip_end = packet->ip_at + sizeof(*ip6) + ntohs(ip6->payload_len);
	cursor->next_header = ip6->nexthdr;
	cursor->at += sizeof(*ip6);
	if (cursor->next_header == NEXT_HEADER_ROUTING)
		return find_srh(packet, cursor);
	return 0;
}

/* An IPv4 header. Its checksum is for the caller to look at. */
static __always_inline int find_ipv4(struct packet *packet, struct cursor *cursor)
{
	struct iphdr *ip4 = cursor->at;

	if (!has_room(cursor, sizeof(*ip4)) || ip4->version != 4 || ip4->ihl < 5)
		return -1;
	if (ip4->frag_off & htons(0x1fff))
		return -1;
	if (ip4->ihl > 5)
		packet->form = FORM_OPTIONS;
	if (ip4->frag_off & htons(0x2000))
		packet->form = FORM_FRAGMENT;
	packet->version = 4;
	packet->routed = 0;
	packet->ip_at = cursor->at - cursor->data;
	packet->ip_end = packet->ip_at + ntohs(ip4->tot_len);
	cursor->next_header = ip4->protocol;
	cursor->at += 4 * ip4->ihl;
	return 0;
}

/* The packet in a packet, where there is one. */
static __always_inline int find_inner(struct packet *packet, struct cursor *cursor)
{
	__u32 outer_end = packet->ip_end;
	__u8 outer_routed = packet->routed;
	int result;

	if (cursor->next_header == NEXT_HEADER_IPV6)
		result = find_ipv6(packet, cursor);
	else if (cursor->next_header == NEXT_HEADER_IPV4)
		result = find_ipv4(packet, cursor);
	else
		return 0;
	packet->encapsulated = 1;
	packet->outer_routed = outer_routed;
	if (packet->ip_end != outer_end)
		packet->form = FORM_LENGTH;
	return result;
}

/* Fills `packet`, all of it where the answer is FOUND_UDP. */
static __always_inline enum found find_udp(struct xdp_md *ctx, struct packet *packet)
{
	void *data = (void *)(long)ctx->data;
	struct cursor cursor = { .data = data, .at = data, .end = (void *)(long)ctx->data_end };
	struct ethhdr *eth = data;
	struct udphdr *udp;
	__be16 type;

	*packet = (struct packet){};
	if (!has_room(&cursor, sizeof(*eth)))
		return FOUND_OTHER;
	type = eth->h_proto;
	cursor.at += sizeof(*eth);
	if (find_vlans(packet, &cursor, &type))
		return FOUND_OTHER;
	packet->network_at = cursor.at - data;
	if (type == htons(ETH_P_IPV6)) {
		if (find_ipv6(packet, &cursor) || find_inner(packet, &cursor))
			return FOUND_OTHER;
	} else if (type == htons(ETH_P_IP)) {
		if (find_ipv4(packet, &cursor))
			return FOUND_OTHER;
	} else {
		return FOUND_OTHER;
	}
	if (cursor.next_header == NEXT_HEADER_FRAGMENT && find_fragment(packet, &cursor))
		return FOUND_OTHER;
	if (__builtin_expect(cursor.next_header != NEXT_HEADER_UDP, 0) &&
	    find_options(packet, &cursor))
		return FOUND_OTHER;
	if (!has_room(&cursor, sizeof(*udp)))
		return FOUND_OTHER;
	udp = cursor.at;
	packet->source_port = udp->source;
	packet->destination_port = udp->dest;
	packet->udp_at = cursor.at - data;
	packet->end = cursor.end - data;
	packet->ifindex = ctx->ingress_ifindex;
	return FOUND_UDP;
}

/* NULL never, but for the verifier. */
static __always_inline struct packet *keep(const struct packet *packet)
{
	int index = 0;
	struct packet *kept = packets.lookup(&index);

	if (kept)
		*kept = *packet;
	return kept;
}

/*
 * Whether UDP, IP and the frame agree about where the packet ends: then its UDP
 * payload is the last `udp_length` - 8 bytes of the frame.
 */
static __always_inline int agrees_on_end(const struct packet *packet, __u32 udp_length)
{
	return udp_length >= sizeof(struct udphdr) && packet->udp_at + udp_length == packet->end &&
	       packet->ip_end == packet->end;
}

#endif
