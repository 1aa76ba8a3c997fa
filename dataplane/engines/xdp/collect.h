/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The Collector in the driver: dataplane/stamp/collector.py for the replies that need
 * nothing else than what is here.
 *
 * Rules that hold here:
 *
 * - T4 is the first thing that is done with a packet to a Session-Sender's port.
 * - A reply is taken in only if the kernel would have given it to the session's
 *   socket, and the sans-IO core would have counted it as received, duplicate or late.
 *   Everything else is handed up, unchanged.
 * - What a session is told about is decided under its lock, which one CPU has at a
 *   time: replies may arrive on any. One that cannot have it soon hands up.
 * - The order of the lock is the order of events. `horizon_ns` keeps time from going
 *   back in it: what user space has taken for lost is not received afterwards.
 */
#ifndef STAMP_COLLECT_H
#define STAMP_COLLECT_H

#include "../driver/checksum.h"
#include "../driver/node.h"
#include "../driver/timestamp.h"
#include "sums.h"

#define UDP_WORDS 2
#define REPLY_WORDS 11
#define REPLY_LENGTH (4 * REPLY_WORDS)
#define ERA_NS (NS_PER_S << 32)
#define LOCK_TRIES 32
#define HALF_WRAP 0x80000000
#define COLLECTOR_UP_NONE COLLECTOR_UP_REASONS	/* beyond all reasons */

#define barrier() asm volatile("" ::: "memory")

BPF_F_TABLE("array", int, struct collector_config, collector_configs, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, __u64, collector_ports, PORT_WORDS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, __u64, collector_interfaces, COLLECTOR_INTERFACES, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, struct collection, no_collection, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, struct slot, no_slots, 1, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
BPF_ARRAY_OF_MAPS(collections, "no_collection", SSIDS);
BPF_ARRAY_OF_MAPS(collection_slots, "no_slots", SSIDS);
BPF_TABLE("percpu_array", int, struct collector_counters, collector_counts, 1);

/* UDP header and base packet, as they stand in the frame. */
struct datagram {
	struct udphdr udp;
	__u32 base[REPLY_WORDS];
};

/* A reply as its session is told about it. */
struct reply {
	__u64 now_ns;			/* CLOCK_MONOTONIC of its arrival */
	__u64 sequence;			/* the Session-Sender's, unwrapped */
	__s64 t1_ns;
	__s64 t2_ns;
	__s64 t3_ns;
	__s64 t4_ns;
	__u32 reflector_sequence;
	__u16 error_estimate;
	__u8 sender_ttl;
	__u8 flags;
};

static __always_inline struct collector_counters *collector_counters_here(void)
{
	int index = 0;

	return collector_counts.lookup(&index);
}

static __always_inline int collector_hand_up(__u32 reason)
{
	struct collector_counters *counters = collector_counters_here();

	if (counters)
		counters->handed_up[reason & (COLLECTOR_UP_REASONS - 1)]++;
	return XDP_PASS;
}

static __always_inline struct collection *collection_of(__u16 ssid)
{
	int index = ssid, first = 0;
	void *map = collections.lookup(&index);

	return map ? bpf_map_lookup_elem(map, &first) : 0;
}

static __always_inline struct slot *slot_of(const struct collection *session, __u16 ssid,
					    __u64 sequence)
{
	int index = ssid, at = sequence & session->mask;
	void *map = collection_slots.lookup(&index);

	return map ? bpf_map_lookup_elem(map, &at) : 0;
}

static __always_inline int lock(struct collection *session, int tries)
{
	for (int i = 0; i < tries; i++) {
		if (!__sync_lock_test_and_set(&session->lock, 1))
			return 0;
	}
	return -1;
}

static __always_inline void unlock(struct collection *session)
{
	barrier();
	*(volatile __u64 *)&session->lock = 0;
}

/* Into the era that is nearest; both differ by less than two eras. */
static __always_inline __s64 near(__s64 in_era_ns, __s64 near_ns)
{
	__s64 apart = in_era_ns - near_ns;

	if (apart < -(__s64)(ERA_NS / 2))
		apart += ERA_NS;
	if (apart >= (__s64)(ERA_NS / 2))
		apart -= ERA_NS;
	return near_ns + apart;
}

/* dataplane/stamp/timestamp.py: decode_timestamp(). */
static __always_inline __s64 decoded(const __be32 *at, int ptp, const struct clock *clock,
				     __s64 near_ns)
{
	__u64 seconds = ntohl(at[0]), fraction = ntohl(at[1]);

	if (ptp)
		return near((seconds - clock->tai_offset_s) * NS_PER_S + fraction, near_ns);
	return near((seconds - NTP_UNIX_OFFSET_S) * NS_PER_S +
		    ((fraction * NS_PER_S + (1ULL << 31)) >> 32), near_ns);
}

/* The sums that count at this time, by parity; negative where there are none. */
static __always_inline int interval_at(const struct collection *session, __u64 now_ns)
{
	__u64 boundary = session->boundary;

	if (now_ns < boundary >> 1)
		return boundary & 1;
	if (now_ns - (boundary >> 1) >= session->interval_ns)
		return -1;
	return ~boundary & 1;
}

/*
 * What user space has to look at records for, one by one: not for those that follow on
 * each other, and for losses alone only at which they are.
 */
static __always_inline void count_breaks(struct collection *session, const struct reply *reply)
{
	struct running *running = &session->running;
	__u64 passed = reply->sequence - running->highest;
	__u32 counted = 0;

	if (session->flags & COLLECTION_STATEFUL)
		counted = reply->reflector_sequence - running->next_number;
	if (!(passed | counted))
		return;
	running->breaks++;
	/* The first number may be any. */
	if (running->highest && ((__s64)passed < 0 || counted > passed))
		running->turns++;
}

static __always_inline void count_delays(struct collection *session, const struct reply *reply,
					 int parity)
{
	struct running *running = &session->running;
	struct interval_sums *sums = &session->interval[parity & 1];
	__s64 delay[DIRECTIONS];
	int pair = 0, newest = reply->sequence + 1 > running->previous_sequence;

	delay[0] = reply->t2_ns - reply->t1_ns;
	delay[1] = reply->t4_ns - reply->t3_ns;
	delay[2] = delay[0] + delay[1];
	if (newest && running->previous_sequence) {
		pair = 1;
		sums->pairs++;
	}
#pragma unroll
	for (int i = 0; i < DIRECTIONS; i++) {
		add_sample(&sums->delay[i], session->histogram[parity & 1][i], delay[i],
			   sums->samples, &session->origin_ns[i]);
		if (pair)
			add_pair(&sums->delay[i], delay[i], running->previous_ns[i]);
		if (newest)
			running->previous_ns[i] = delay[i];
	}
	if (newest)
		running->previous_sequence = reply->sequence + 1;
	count_breaks(session, reply);
	if (reply->sequence + 1 > running->highest) {
		running->highest = reply->sequence + 1;
		running->next_number = reply->reflector_sequence + 1;
	} else {
		running->reordered++;
		sums->reordered++;
	}
	sums->samples++;
}

static __always_inline void write_record(struct collection *session, struct slot *slot,
					 const struct reply *reply, int parity)
{
	__u64 index = session->running.received;

	slot->t1_ns = reply->t1_ns;
	slot->t2_ns = reply->t2_ns;
	slot->t3_ns = reply->t3_ns;
	slot->t4_ns = reply->t4_ns;
	slot->index = index;
	slot->reflector_sequence = reply->reflector_sequence;
	slot->error_estimate = reply->error_estimate;
	slot->sender_ttl = reply->sender_ttl;
	slot->flags = reply->flags | (parity ? RECORD_PARITY : 0);
	session->order[index & (ORDER_MAX - 1)] = reply->sequence;
	barrier();
	slot->tag = reply->sequence << 1 | 1;
	barrier();
	session->running.received = index + 1;
}

/* A reply to a packet that was sent, under the lock: Collector.receive() from there on. */
static __always_inline enum outcome take_in(struct collection *session, struct slot *slot,
					    struct reply *reply)
{
	__u64 under_way = reply->sequence << 1, tag = slot->tag;
	int parity;

	if (reply->now_ns < session->horizon_ns)
		reply->now_ns = session->horizon_ns;
	parity = interval_at(session, reply->now_ns);
	if (parity < 0)
		return OUTCOME_AHEAD;
	/* Records count in one interval first, then in the next: CPUs differ by a moment. */
	if (parity != (session->boundary & 1))
		session->horizon_ns = reply->now_ns;
	if (tag == under_way && reply->sequence >= session->settled &&
	    reply->now_ns <= slot->sent_ns + session->timeout_ns) {
		if (slot->t1_ns) {
			reply->t1_ns = slot->t1_ns;
			reply->flags |= RECORD_T1_KERNEL;
		}
		count_delays(session, reply, parity);
		write_record(session, slot, reply, parity);
		return OUTCOME_RECORDED;
	}
	if (tag == (under_way | 1)) {
		if (session->flags & COLLECTION_STATEFUL &&
		    slot->reflector_sequence != reply->reflector_sequence)
			return OUTCOME_COPY;
		session->interval[parity & 1].duplicates++;
		return OUTCOME_DUPLICATE;
	}
	session->interval[parity & 1].late++;
	return OUTCOME_LATE;
}

static __always_inline int same_ends(const struct xdp_md *ctx, const struct packet *packet,
				     const struct collection *session)
{
	const __u64 *reflector = (void *)&session->reflector;
	struct ipv6hdr *ip6 = bytes_at(ctx, packet->ip_at, sizeof(*ip6));
	__u64 source[2], destination[2];

	if (!ip6)
		return 0;
	__builtin_memcpy(source, &ip6->saddr, sizeof(source));
	__builtin_memcpy(destination, &ip6->daddr, sizeof(destination));
	return !((source[0] ^ reflector[0]) | (source[1] ^ reflector[1]) |
		 (destination[0] ^ reflector[2]) | (destination[1] ^ reflector[3]) |
		 (packet->source_port ^ session->reflector_port) |
		 (packet->destination_port ^ session->local_port));
}

/* Whether the kernel would take the frame in at a device where replies may arrive. */
static __always_inline int is_admitted(const struct xdp_md *ctx, const struct packet *packet)
{
	int index = packet->ifindex;
	__u64 *admitted, *frame;
	struct interface *device;

	if (packet->tags) {
		device = device_of(packet);
		return device && takes(ctx, packet, device);
	}
	admitted = collector_interfaces.lookup(&index);
	frame = bytes_at(ctx, 0, sizeof(*frame));
	return admitted && frame && *admitted & COLLECTOR_ADMITTED &&
	       !((*admitted ^ *frame) & COLLECTOR_MAC) &&
	       (!packet->routed || *admitted & COLLECTOR_SRV6) &&
	       !(packet->outer_routed && *admitted & COLLECTOR_SIGNED);
}

/* What keeps a packet from being looked into, COLLECTOR_UP_NONE for nothing. */
static __always_inline __u32 judge_form(const struct packet *packet, __u32 udp_length)
{
	if (packet->form == FORM_LENGTH)
		return COLLECTOR_UP_LENGTH;
	if (packet->form != FORM_PLAIN || packet->version != 6)
		return COLLECTOR_UP_FORM;
	if (!agrees_on_end(packet, udp_length))
		return COLLECTOR_UP_LENGTH;
	if (udp_length < sizeof(struct udphdr) + REPLY_LENGTH)
		return COLLECTOR_UP_SHORT;
	if (udp_length > sizeof(struct udphdr) + REPLY_LENGTH)
		return COLLECTOR_UP_TRAILER;
	return COLLECTOR_UP_NONE;
}

static __always_inline int has_checksum(const struct collection *session,
					const struct datagram *datagram, __u32 flags)
{
	__u64 sum = session->pseudo + sum_words((void *)datagram, UDP_WORDS + REPLY_WORDS);

	/* What is checked is part of the sum: complements come to one of the zeros. */
	return (datagram->udp.check && folded(sum) == 0xffff) ||
	       (flags & COLLECTOR_PARTIAL && datagram->udp.check == folded(session->pseudo));
}

/* Whether its session has sent what it replies to; `sequence` is unwrapped then. */
static __always_inline int was_sent(const struct collection *session, __u32 wrapped,
				    __u64 *sequence)
{
	__u64 newest = *(volatile __u64 *)&session->next_sequence - 1;
	__u32 age = (__u32)newest - wrapped;

	*sequence = newest - age;
	return age < HALF_WRAP && age <= newest && newest + 1;
}

static __always_inline void read_reply(const __u32 *base, const struct clock *clock,
				       struct reply *reply)
{
	__u32 error = ntohl(base[3]) >> 16, sender_error = ntohl(base[9]) >> 16;
	int ptp = error & ERROR_ESTIMATE_Z;

	reply->t1_ns = decoded(base + 7, sender_error & ERROR_ESTIMATE_Z, clock, reply->t4_ns);
	reply->t2_ns = decoded(base + 4, ptp, clock, reply->t4_ns);
	reply->t3_ns = decoded(base + 1, ptp, clock, reply->t4_ns);
	reply->reflector_sequence = ntohl(base[0]);
	reply->error_estimate = error;
	reply->sender_ttl = ntohl(base[10]) >> 24;
	reply->flags = (sender_error & 0x8000 ? RECORD_SENDER_SYNCHRONIZED : 0) |
		       (error & 0x8000 ? RECORD_REFLECTOR_SYNCHRONIZED : 0);
}

static __always_inline int conclude(enum outcome outcome)
{
	struct collector_counters *counters = collector_counters_here();

	if (outcome == OUTCOME_COPY)
		return collector_hand_up(COLLECTOR_UP_COPY);
	if (outcome == OUTCOME_AHEAD)
		return collector_hand_up(COLLECTOR_UP_AHEAD);
	if (counters) {
		if (outcome == OUTCOME_RECORDED)
			counters->collected++;
		else if (outcome == OUTCOME_DUPLICATE)
			counters->duplicates++;
		else
			counters->late++;
	}
	return XDP_DROP;
}

/*
 * CLOCK_MONOTONIC at T4, without reading a second clock where it does not matter:
 * `monotonic_offset_ns` is a moment old, and the wall clock may have been stepped.
 */
static __always_inline __u64 arrival_ns(const struct collection *session,
					const struct collector_config *config,
					const struct slot *slot, __u64 t4_tai_ns)
{
	__u64 now_ns = t4_tai_ns + config->monotonic_offset_ns;

#ifndef FIXED_CLOCK
	if (now_ns >= session->boundary >> 1 || now_ns > slot->sent_ns + session->timeout_ns)
		now_ns = bpf_ktime_get_ns();
#endif
	return now_ns;
}

/* A packet to a Session-Sender's port. */
static __always_inline int collect(struct xdp_md *ctx, const struct packet *packet)
{
	struct collector_config *config;
	struct collection *session;
	struct datagram datagram;
	struct clock *clock;
	struct reply reply;
	struct slot *slot;
	enum outcome outcome;
	const __u32 *base = datagram.base;
	__u64 t4_tai_ns;
	void *udp;
	__u16 ssid;
	__u32 up;
	int index = 0;

	clock = clocks.lookup(&index);
	config = collector_configs.lookup(&index);
	if (!clock || !config)
		return XDP_PASS;
	t4_tai_ns = READ_CLOCK(clock, FIRST_READING);
	packet = keep(packet);
	if (!packet)
		return XDP_PASS;
	udp = bytes_at(ctx, packet->udp_at, sizeof(struct udphdr));
	if (!udp)
		return XDP_PASS;
	up = judge_form(packet, ntohs(((struct udphdr *)udp)->len));
	if (up != COLLECTOR_UP_NONE)
		return collector_hand_up(up);
	udp = bytes_at(ctx, packet->udp_at, sizeof(datagram));
	if (!udp)
		return collector_hand_up(COLLECTOR_UP_LENGTH);
	__builtin_memcpy(&datagram, udp, sizeof(datagram));
	ssid = ntohs(((const __be16 *)base)[7]);
	session = collection_of(ssid);
	if (!session)
		return collector_hand_up(COLLECTOR_UP_SESSION);
	if (!same_ends(ctx, packet, session))
		return collector_hand_up(COLLECTOR_UP_PEER);
	if (!is_admitted(ctx, packet) || !decapsulates(ctx, packet))
		return collector_hand_up(COLLECTOR_UP_INTERFACE);
	if (!has_checksum(session, &datagram, config->flags))
		return collector_hand_up(COLLECTOR_UP_CHECKSUM);
	if (!(base[3] & htonl(0x00ff0000)) || !(base[9] & htonl(0x00ff0000)))
		return collector_hand_up(COLLECTOR_UP_MULTIPLIER);
	if (!was_sent(session, ntohl(base[6]), &reply.sequence))
		return collector_hand_up(COLLECTOR_UP_SEQUENCE);
	slot = slot_of(session, ssid, reply.sequence);
	if (!slot)
		return collector_hand_up(COLLECTOR_UP_SESSION);
	reply.t4_ns = unix_ns(clock, t4_tai_ns);
	reply.now_ns = arrival_ns(session, config, slot, t4_tai_ns);
	read_reply(base, clock, &reply);
	if (reply.t1_ns < session->earliest_t1_ns)
		return collector_hand_up(COLLECTOR_UP_SEQUENCE);
	if (lock(session, LOCK_TRIES))
		return collector_hand_up(COLLECTOR_UP_BUSY);
	outcome = take_in(session, slot, &reply);
	unlock(session);
	return conclude(outcome);
}

/* Whether a packet is for a Session-Sender, as far as its port says. */
static __always_inline int is_collected(const struct packet *packet)
{
	__u32 port = ntohs(packet->destination_port);
	int index = port / 64;
	__u64 *word = collector_ports.lookup(&index);

	return word && *word >> (port & 63) & 1;
}

/* Any frame. */
static __always_inline int run_collector(struct xdp_md *ctx)
{
	struct packet packet;

	if (find_udp(ctx, &packet) != FOUND_UDP || !is_collected(&packet))
		return XDP_PASS;
	return collect(ctx, &packet);
}

#endif
