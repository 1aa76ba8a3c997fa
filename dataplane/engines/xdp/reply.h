/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The reply, written over the request: its UDP header and payload stay where they
 * are, at the end of the frame; what is in front of them is made anew.
 *
 * Part of reflect.h.
 */
#ifndef STAMP_REPLY_H
#define STAMP_REPLY_H

#define SRH_FIXED 8
#define LAYER_2_MAX (ETH_HLEN + VLAN_TAGS_MAX * 4)

/* Layer 2 as it arrived. */
struct layer_2 {
	__u8 destination[6];
	__u8 source[6];
	__u32 tag[VLAN_TAGS_MAX];
	__u16 tags;
};

/* The SRH that the reply gets; none if there are no segments. */
struct return_path {
	__u32 segments;			/* with the sender's address, where it is appended */
	__u32 appended;
	__u32 length;			/* of the SRH in bytes */
};

/* IPv4 has no SRH: without a path, replies to a sender of IPv4 go where it is. */
static __always_inline int has_path(const struct session *session, const struct request *request)
{
	return session && session->segments && request->version == 6;
}

static __always_inline struct return_path return_path_of(const struct session *session,
							 const struct request *request)
{
	struct return_path path = {};

	if (!has_path(session, request))
		return path;
	path.appended = !same_address(&session->segment[0], &request->source);
	path.segments = session->segments + path.appended;
	path.length = SRH_FIXED + path.segments * sizeof(struct address);
	return path;
}

/* Where the reply goes first. */
static __always_inline struct address first_stop(const struct session *session,
						 const struct request *request)
{
	if (!has_path(session, request))
		return request->source;
	return session->segment[(session->segments - 1) & (SEGMENTS_MAX - 1)];
}

static __always_inline struct layer_2 save_layer_2(const struct xdp_md *ctx,
						   const struct packet *packet)
{
	struct layer_2 saved = { .tags = packet->tags };
	struct ethhdr *eth = bytes_at(ctx, 0, LAYER_2_MAX);
	__u32 *tag;

	if (!eth)
		return saved;
	tag = (void *)&eth->h_proto;
	__builtin_memcpy(saved.destination, eth->h_dest, 6);
	__builtin_memcpy(saved.source, eth->h_source, 6);
	saved.tag[0] = tag[0];
	saved.tag[1] = tag[1];
	return saved;
}

/* Returns what comes behind; NULL where there is no room. */
static __always_inline void *write_layer_2(void *data, void *end, const struct layer_2 *saved,
					   const struct next_hop *hop, __u16 ethertype)
{
	struct ethhdr *eth = data;
	__u32 *tag = (void *)&eth->h_proto;
	__be16 *type;

	if (data + LAYER_2_MAX > end)
		return 0;
	__builtin_memcpy(eth->h_dest, hop->egress ? hop->destination_mac : saved->source, 6);
	__builtin_memcpy(eth->h_source, hop->egress ? hop->source_mac : saved->destination, 6);
#pragma unroll
	for (int i = 0; i < VLAN_TAGS_MAX; i++) {
		if (i < saved->tags)
			*tag++ = saved->tag[i];
	}
	type = (void *)tag;
	*type = htons(ethertype);
	return type + 1;
}

static __always_inline int write_ipv6(void *at, void *end, const struct request *request,
				      const struct journey *journey,
				      const struct return_path *path)
{
	struct ipv6hdr *ip6 = at;

	if (at + sizeof(*ip6) > end)
		return -1;
	*(__be32 *)ip6 = request->flow & ~htonl(IPV6_ECN_MASK);
	ip6->payload_len = htons(path->length + sizeof(struct udphdr) + request->length);
	ip6->nexthdr = path->length ? NEXT_HEADER_ROUTING : NEXT_HEADER_UDP;
	ip6->hop_limit = REPLY_HOP_LIMIT;
	__builtin_memcpy(&ip6->saddr, &journey->local, sizeof(journey->local));
	__builtin_memcpy(&ip6->daddr, &journey->next, sizeof(journey->next));
	return 0;
}

/* The reply is as long as the request, which the first word says; not to be fragmented. */
static __always_inline int write_ipv4(void *at, void *end, const struct request *request,
				      const struct journey *journey)
{
	struct iphdr *ip4 = at;
	__be32 *word = at;

	if (at + sizeof(*ip4) > end)
		return -1;
	word[0] = request->flow & ~htonl(IPV4_ECN_MASK);
	word[1] = htonl(0x4000);
	word[2] = htonl(REPLY_HOP_LIMIT << 24 | NEXT_HEADER_UDP << 16);
	word[3] = journey->local.word[3];
	word[4] = journey->next.word[3];
	ip4->check = ~folded(sum_words(word, sizeof(*ip4) / 4));
	return 0;
}

static __always_inline int write_srh(void *at, void *end, const struct session *session,
				     const struct request *request,
				     const struct return_path *path)
{
	struct ipv6_sr_hdr *srh = at;
	struct address *segment = at + SRH_FIXED;

	if (at + SRH_FIXED + sizeof(*segment) > end)
		return -1;
	srh->nexthdr = NEXT_HEADER_UDP;
	srh->hdrlen = 2 * path->segments;
	srh->type = IPV6_SRCRT_TYPE_4;
	srh->segments_left = path->segments - 1;
	srh->first_segment = path->segments - 1;
	srh->flags = 0;
	srh->tag = 0;
	if (path->appended)
		*segment++ = request->source;
	for (int i = 0; i < SEGMENTS_MAX; i++) {
		if (i >= session->segments)
			break;
		if ((void *)(segment + 1) > end)
			return -1;
		*segment++ = session->segment[i];
	}
	return 0;
}

/* UDP header and base packet; T3 is read here. */
static __always_inline int write_payload(void *at, void *end, const struct clock *clock,
					 const struct request *request,
					 const struct session *session, __u32 sequence)
{
	__u32 error = clock->error_estimate, sender_error = request->base[3];
	struct udphdr *udp = at;
	__u32 *base = at + sizeof(*udp);
	__u32 reply[BASE_WORDS];
	__u64 t2, t3;
	int ptp;

	if (at + sizeof(*udp) + BASE_LENGTH > end)
		return -1;
	ptp = !!(sender_error & htonl((__u32)ERROR_ESTIMATE_Z << 16));
	if (session && session->flags & SESSION_FORMAT)
		ptp = !!(session->flags & SESSION_PTP);
	if (ptp)
		error |= ERROR_ESTIMATE_Z;
	t2 = wire_timestamp(clock, request->t2_ns, ptp);
	reply[0] = sequence;
	reply[3] = htonl(error << 16) | (sender_error & htonl(0x0000ffff));
	reply[4] = htonl(t2 >> 32);
	reply[5] = htonl(t2);
	reply[6] = request->base[0];
	reply[7] = request->base[1];
	reply[8] = request->base[2];
	reply[9] = sender_error & htonl(0xffff0000);
	reply[10] = htonl((__u32)request->hop_limit << 24);
	udp->source = request->local_port;
	udp->dest = request->port;
	t3 = wire_timestamp(clock, READ_CLOCK(clock, SECOND_READING), ptp);
	reply[1] = htonl(t3 >> 32);
	reply[2] = htonl(t3);
	__builtin_memcpy(base, reply, BASE_LENGTH);
	/* What is in it while it is open is the same for both directions. */
	if (!request->open)
		udp->check = checksum(request->sum + sum_words(reply, BASE_WORDS));
	return 0;
}

/* The number of the reply; the request counts from here on. */
static __always_inline __be32 count_request(const struct clock *clock, struct request *request,
					    const struct session *session, __u32 slot)
{
	struct session_state *state;
	int index = slot;
	__be32 sequence = request->base[0];

	state = session_states.lookup(&index);
	if (!state)
		return sequence;
	if (session && session->flags & SESSION_STATEFUL)
		sequence = htonl(__sync_fetch_and_add(&state->next_sequence, 1));
	__sync_fetch_and_add(&state->answered, 1);
	state->last_received_ns = unix_ns(clock, request->t2_ns);
	return sequence;
}

static __always_inline struct journey journey_of(const struct reflector_config *config,
						 const struct request *request,
						 const struct session *session)
{
	return (struct journey){
		.local = request->destination,
		.next = first_stop(session, request),
		.now_ns = request->t2_ns,
		.epoch = config->epoch,
		.slot = session ? session->slot : 0,
		.flow = request->flow & htonl(request->version == 6 ? IPV6_ROUTED_BY
								    : IPV4_ROUTED_BY),
		.version = request->version,
		.local_port = request->local_port,
		.port = request->port,
	};
}

static __always_inline int answer(struct xdp_md *ctx, const struct packet *packet,
				  const struct clock *clock, struct request *request,
				  const struct session *session, const struct journey *journey)
{
	struct return_path path = return_path_of(session, request);
	int six = request->version == 6;
	__u32 header = six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	struct reflector_counters *counters;
	struct layer_2 saved;
	struct next_hop *hop;
	void *data, *end, *at;
	__be32 sequence;
	int delta;

	hop = find_next_hop(ctx, packet, journey);
	if (!hop)
		return hand_up(UP_NEXT_HOP);
	if (header + path.length + sizeof(struct udphdr) + request->length > hop->mtu)
		return hand_up(UP_TOO_BIG);
	saved = save_layer_2(ctx, packet);
	delta = packet->udp_at - packet->network_at - header - path.length;
	if (delta && bpf_xdp_adjust_head(ctx, delta))
		return hand_up(UP_HEAD_ROOM);
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	sequence = count_request(clock, request, session, journey->slot);
	at = write_layer_2(data, end, &saved, hop, six ? ETH_P_IPV6 : ETH_P_IP);
	if (!at || (six ? write_ipv6(at, end, request, journey, &path)
			: write_ipv4(at, end, request, journey)))
		return XDP_ABORTED;
	at += header;
	if (session && path.length) {
		if (write_srh(at, end, session, request, &path))
			return XDP_ABORTED;
		at += path.length;
	}
	counters = reflector_counters_here();
	if (counters)
		counters->answered++;
	if (!(hop->device.flags & INTERFACE_GENERIC))
		request->open = 0;
	if (write_payload(at, end, clock, request, session, sequence))
		return XDP_ABORTED;
	if (hop->egress && hop->egress != packet->ifindex)
		return bpf_redirect(hop->egress, 0);
	return XDP_TX;
}

#endif
