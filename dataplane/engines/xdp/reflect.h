/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The Session-Reflector in the driver: dataplane/stamp/session_reflector.py for the
 * packets that need nothing else than what is here.
 *
 * Rules that hold here:
 *
 * - A packet is looked into only if the kernel would have given it to the socket of
 *   the userspace engine: its destination and interface, its checksum, its length.
 * - What cannot be answered exactly as the userspace engine would answer it is
 *   handed up, unchanged and uncounted but as handed up: it is answered there.
 * - A packet is counted, and a stateful session numbers its reply, once nothing can
 *   keep it from being answered any more.
 * - T2 is the first thing that is done with a STAMP packet, T3 the last but its
 *   checksum.
 */
#ifndef STAMP_REFLECT_H
#define STAMP_REFLECT_H

#include "../driver/checksum.h"
#include "next_hop.h"
#include "rate.h"

#define STAMP_PORT 862
#define BASE_WORDS 11
#define BASE_LENGTH (4 * BASE_WORDS)
#define TRAILER_MAX (4 * SUM_STEP - 1)

#define REPLY_HOP_LIMIT 255
#define IPV6_ECN_MASK 0x00300000		/* in the first word of the header */
#define IPV4_ECN_MASK 0x00030000
#define IPV6_ROUTED_BY 0x0fcfffff	/* DSCP and flow label */
#define IPV4_ROUTED_BY 0x00fc0000	/* DSCP */

/* Beyond all reasons. */
#define UP_NONE UP_REASONS
#define DISCARD_NONE DISCARD_REASONS

#define REFLECTION_S 10			/* as in session_reflector.py */

BPF_F_TABLE("array", int, struct reflector_config, reflector_configs, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("hash", struct session_key, struct session, sessions, SESSIONS_MAX,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("array", int, __u64, ssids, WORDS_OF_SSIDS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, struct session_state, session_states, SESSIONS_MAX, BPF_F_MMAPABLE);
BPF_TABLE("percpu_array", int, struct reflector_counters, reflector_counts, 1);

/* Everything that is known about a request. */
struct request {
	struct address source;
	struct address destination;
	__u64 t2_ns;			/* CLOCK_TAI */
	__u64 sum;			/* of pseudo header, ports, length, and trailer */
	__u32 base[BASE_WORDS];		/* the base packet, as it stands there */
	__u32 length;			/* of the UDP payload */
	__be32 flow;			/* first word of the IP header */
	__be16 port;			/* the Session-Sender's */
	__be16 local_port;
	__u8 version;			/* of IP */
	__u8 hop_limit;			/* or TTL */
	__u8 open;			/* the checksum is the pseudo header's alone so far */
};

static __always_inline struct reflector_counters *reflector_counters_here(void)
{
	int index = 0;

	return reflector_counts.lookup(&index);
}

static __always_inline int is_link_local(const struct address *address)
{
	return (address->word[0] & htonl(0xffc00000)) == htonl(0xfe800000);
}

/* Whether the userspace engine's socket would have got the packet. */
static __always_inline int is_ours(const struct xdp_md *ctx, const struct packet *packet,
				   const struct reflector_config *config, struct request *request)
{
	struct interface *device;

	if (config->flags & REFLECTOR_ONE_ADDRESS &&
	    !same_address(&request->destination, &config->address))
		return 0;
	device = device_of(packet);
	if (!device || !takes(ctx, packet, device))
		return 0;
	if (packet->version == 4 && is_martian(&request->source))
		return 0;
	return decapsulates(ctx, packet) && has_address(&request->destination, LOCAL_ADDRESS);
}

static __always_inline int discard(__u32 reason)
{
	struct reflector_counters *counters = reflector_counters_here();

	if (counters)
		counters->discarded[reason & (DISCARD_REASONS - 1)]++;
	return XDP_DROP;
}

/* To the userspace engine. */
static __always_inline int hand_up(__u32 reason)
{
	struct reflector_counters *counters = reflector_counters_here();

	if (counters)
		counters->handed_up[reason & (UP_REASONS - 1)]++;
	return XDP_PASS;
}

/* What the IP header says; what keeps the request from being handled here. */
static __always_inline __u32 read_header(const struct xdp_md *ctx, const struct packet *packet,
					 struct request *request)
{
	request->version = packet->version;
	if (packet->version == 6) {
		struct ipv6hdr *ip6 = bytes_at(ctx, packet->ip_at, sizeof(*ip6));

		if (!ip6)
			return UP_LENGTH;
		request->flow = *(__be32 *)ip6;
		request->hop_limit = ip6->hop_limit;
	} else {
		struct iphdr *ip4 = bytes_at(ctx, packet->ip_at, sizeof(*ip4));

		if (!ip4)
			return UP_LENGTH;
		if (!has_ipv4_checksum(ip4))
			return UP_CHECKSUM;
		request->flow = *(__be32 *)ip4;
		request->hop_limit = ip4->ttl;
	}
	return UP_NONE;
}

/*
 * Reads the request. Returns what keeps it from being handled here, UP_NONE for
 * nothing.
 */
static __always_inline __u32 read_request(const struct xdp_md *ctx, const struct packet *packet,
					  const struct reflector_config *config,
					  struct request *request)
{
	struct udphdr *udp;
	__u32 up, udp_length;
	__s64 trailer;
	__u64 pseudo;
	__u16 check;
	int complete;

	if (packet->form == FORM_FRAGMENT)
		return UP_FRAGMENT;
	if (packet->form == FORM_SRH_TLV)
		return UP_SRH_TLV;
	if (packet->form == FORM_LENGTH)
		return UP_LENGTH;
	if (packet->form == FORM_OPTIONS)
		return packet->version == 6 ? UP_IPV6_OPTIONS : UP_IPV4_OPTIONS;
	if (is_link_local(&request->source))
		return UP_LINK_LOCAL;
	udp = bytes_at(ctx, packet->udp_at, sizeof(*udp));
	if (!udp)
		return UP_LENGTH;
	udp_length = ntohs(udp->len);
	if (!agrees_on_end(packet, udp_length))
		return UP_LENGTH;
	request->length = udp_length - sizeof(*udp);
	if (request->length < BASE_LENGTH)
		return UP_SHORT;
	if (request->length > BASE_LENGTH && !(config->flags & REFLECTOR_TRAILERS))
		return UP_TRAILER;
	if (request->length > BASE_LENGTH + TRAILER_MAX)
		return UP_LENGTH;
	up = read_header(ctx, packet, request);
	if (up != UP_NONE)
		return up;
	udp = bytes_at(ctx, packet->udp_at, sizeof(*udp) + BASE_LENGTH);
	if (!udp)
		return UP_LENGTH;
	__builtin_memcpy(request->base, udp + 1, BASE_LENGTH);
	check = udp->check;
	trailer = sum_bytes(ctx, packet->udp_at + sizeof(*udp) + BASE_LENGTH,
			    request->length - BASE_LENGTH);
	if (trailer < 0)
		return UP_LENGTH;
	pseudo = sum_pseudo_header(ctx, packet, udp_length);
	request->sum = pseudo + request->port + request->local_port + htons(udp_length) + trailer;
	request->open = config->flags & REFLECTOR_PARTIAL && check == folded(pseudo);
	/* It may be several requests yet, which the kernel cuts apart for a socket (GSO). */
	if (request->open && request->length > BASE_LENGTH)
		return UP_CHECKSUM;
	/* Over IPv4 a request may have none (RFC 768); replies have. */
	if (packet->version == 4 && !check)
		return UP_NONE;
	complete = check == checksum(request->sum + sum_words(request->base, BASE_WORDS));
	/* One that is right either way is complete or open: only the kernel knows. */
	if (request->open == complete)
		return UP_CHECKSUM;
	return UP_NONE;
}

/* What a Session-Reflector sends: see session_reflector.py. */
static __always_inline int is_reflected(const struct request *request)
{
	__u32 apart_s = ntohl(request->base[4]) - ntohl(request->base[1]) + REFLECTION_S;

	return (request->base[4] | request->base[5]) && apart_s <= 2 * REFLECTION_S;
}

static __always_inline int is_unanswerable_source(const struct request *request)
{
	const __be32 *word = request->source.word;

	return (word[0] & htonl(0xff000000)) == htonl(0xff000000) || request->port == 0 ||
	       !(word[0] | word[1] | word[2] | word[3]);
}

/* What sessions there are with an SSID: most questions to the table end here. */
static __always_inline __u32 sessions_of(__be16 ssid)
{
	__u32 number = ntohs(ssid);
	int index = number / SSIDS_IN_WORD;
	__u64 *word = ssids.lookup(&index);

	return word ? *word >> 2 * (number % SSIDS_IN_WORD) : 0;
}

/*
 * The session of a request. Returns why it must not be answered, DISCARD_NONE for
 * no reason; without a session it may be answered all the same.
 */
static __always_inline __u32 find_session(const struct reflector_config *config,
					  const struct request *request, struct session **found)
{
	int answerable = request->port != htons(STAMP_PORT) && request->port != config->port;
	struct session_key key = {
		.address = request->source,
		.ssid = ((const __be16 *)request->base)[7],
	};
	__u32 there = sessions_of(key.ssid);
	int wrong_port = 0;

#pragma unroll
	for (int any = 0; any < 2; any++) {
		struct session *session = 0;

		if (there & (any ? SSID_ANY_SENDER : SSID_ONE_SENDER))
			session = sessions.lookup(&key);
		key.address = (struct address){};
		if (!session)
			continue;
		if (session->sender_port && session->sender_port != request->port) {
			wrong_port = 1;
			continue;
		}
		if (!answerable && !session->sender_port)
			return DISCARD_UNANSWERABLE;
		if (!(session->flags & SESSION_ENABLED))
			return DISCARD_SESSION_DISABLED;
		*found = session;
		return DISCARD_NONE;
	}
	if (wrong_port)
		return answerable ? DISCARD_WRONG_PORT : DISCARD_UNANSWERABLE;
	if (!(config->flags & REFLECTOR_ANY_SESSION))
		return DISCARD_UNKNOWN_SESSION;
	return answerable ? DISCARD_NONE : DISCARD_UNANSWERABLE;
}

static __always_inline __u32 judge(const struct reflector_config *config,
				   const struct request *request, struct session **session)
{
	if (is_unanswerable_source(request))
		return DISCARD_UNANSWERABLE;
	if (!(request->base[3] & htonl(0x00ff0000)))
		return DISCARD_ZERO_MULTIPLIER;
	if (is_reflected(request))
		return DISCARD_UNANSWERABLE;
	return find_session(config, request, session);
}

#include "reply.h"

/* A packet to the reflector's port. */
static __always_inline int reflect(struct xdp_md *ctx, const struct packet *packet,
				   const struct reflector_config *config)
{
	__u32 up, why = DISCARD_NONE;
	struct session *session = 0;
	struct request request;
	struct journey journey;
	struct clock *clock;
	int index = 0, lately = 0;

	clock = clocks.lookup(&index);
	if (!clock)
		return XDP_PASS;
	request.t2_ns = READ_CLOCK(clock, FIRST_READING);
	packet = keep(packet);
	if (!packet || read_addresses(ctx, packet, &request.source, &request.destination))
		return XDP_PASS;
	request.port = packet->source_port;
	request.local_port = packet->destination_port;
	up = read_request(ctx, packet, config, &request);
	if (up == UP_NONE) {
		why = judge(config, &request, &session);
		journey = journey_of(config, &request, session);
		lately = answered_lately(ctx, packet, &journey);
	}
	if (!lately && !is_ours(ctx, packet, config, &request))
		return XDP_PASS;
	if (!within_rate(config, &request.source, request.t2_ns))
		return discard(DISCARD_RATE_LIMITED);
	if (up != UP_NONE)
		return hand_up(up);
	if (why != DISCARD_NONE)
		return discard(why);
	return answer(ctx, packet, clock, &request, session, &journey);
}

/* Whether a packet is for the reflector, as far as its port says. */
static __always_inline struct reflector_config *reflector_of(const struct packet *packet)
{
	struct reflector_config *config;
	int index = 0;

	config = reflector_configs.lookup(&index);
	if (!config || packet->destination_port != config->port || !(config->flags & REFLECTOR_ENABLED))
		return 0;
	return config;
}

/* Any frame. */
static __always_inline int run_reflector(struct xdp_md *ctx)
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

/* What user space puts where a frame would be, to number replies of its own. */
struct numbers_request {
	__u32 slot;
	__u32 count;
	__u64 first;			/* filled in here */
};

static __always_inline int take_some_numbers(struct xdp_md *ctx)
{
	struct numbers_request *request = bytes_at(ctx, 0, sizeof(*request));
	struct session_state *state;
	int index;

	if (!request)
		return XDP_ABORTED;
	index = request->slot;
	state = session_states.lookup(&index);
	if (!state)
		return XDP_ABORTED;
	request->first = __sync_fetch_and_add(&state->next_sequence, request->count);
	return XDP_PASS;
}

#endif
