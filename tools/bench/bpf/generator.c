// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// The traffic generator: an XDP program that is run on live frames. Each run
// makes one packet and sends it through the interface EGRESS, or finds that none
// is due yet. The frames are recycled, and whoever received one before has
// changed it: every byte is written each time.
//
// One thread runs it, so nothing here is atomic.

#include <uapi/linux/bpf.h>

#include "wire.h"

#define NS_PER_S 1000000000ULL
#define NTP_UNIX_OFFSET_S 2208988800ULL

// Clock readings in one run; some 25 us.
#define SPINS 1000

// See `Schedule` in generator.py.
struct schedule {
	u64 duration_ns;	// for which packets are sent
	u64 next_due_ns;	// CLOCK_MONOTONIC of the next packet; 0 before the first run
	u64 gap_q8;		// nanoseconds between packets, in units of 1/256
	u64 remainder_q8;
	u64 stop_ns;		// CLOCK_MONOTONIC from which nothing more is sent; 0 likewise
	u64 read_ns;		// CLOCK_MONOTONIC when the clock was last read
	u64 catch_up_ns;	// how far behind the schedule may be before it slips
	u64 wall_offset_ns;	// CLOCK_REALTIME minus CLOCK_MONOTONIC
	u64 share;		// STAMP packets in SHARE_WHOLE
	u64 share_sum;
	u64 sessions;		// SSIDs 1..sessions take turns
	u64 session;
	u64 sequence;		// of the current round of sessions
	// What has been done.
	u64 data;
	u64 stamp;
	u64 idle;		// runs in which no packet was due
	u64 slipped_ns;		// by which the schedule was moved back
};

// See `TEMPLATE` in generator.py.
struct template {
	u64 length;		// bytes of the frame
	u64 udp_at;		// offset of the UDP header
	u64 checksum;		// of the UDP datagram with all variable fields zero
	u64 reply;		// whether this is a Session-Reflector's packet
	u64 words[TEMPLATE_WORDS];
};

BPF_F_TABLE("array", u32, struct schedule, schedules, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct template, templates, 2, BPF_F_MMAPABLE);

static __always_inline u64 ntp(u64 unix_ns)
{
	u64 seconds = unix_ns / NS_PER_S;

	return (seconds + NTP_UNIX_OFFSET_S) << 32 |
	       ((unix_ns - seconds * NS_PER_S) << 32) / NS_PER_S;
}

// Write a field, in network order already, and keep the checksum in step. `at` is
// even, so that the sum of 16-bit words is right.
#define PUT(type, at, value) do {					\
	type put_ = (value);						\
	*(type *)(udp + UDP_LENGTH + (at)) = put_;			\
	sum += sum_of_##type(put_);					\
} while (0)

static __always_inline u64 sum_of_u16(u16 value) { return value; }
static __always_inline u64 sum_of_u32(u32 value)
{
	return (value & 0xffff) + (value >> 16);
}
static __always_inline u64 sum_of_u64(u64 value)
{
	return sum_of_u32(value) + sum_of_u32(value >> 32);
}

// The variable fields of a STAMP packet (RFC 8762 section 4.2.1 and 4.3.1).
static __always_inline void stamp(struct schedule *now, struct template *from,
				  u8 *udp, u64 now_ns)
{
	u64 sum = from->checksum;
	u32 sequence = bpf_htonl((u32)now->sequence);
	u64 wall_ns = now_ns + now->wall_offset_ns;
	u16 check;

	PUT(u32, SEQUENCE_AT, sequence);
	PUT(u16, SSID_AT, bpf_htons((u16)(now->session + 1)));
	if (from->reply) {
		// A round trip of one millisecond, half of it each way.
		PUT(u64, T3_AT, bpf_cpu_to_be64(ntp(wall_ns - 500000)));
		PUT(u64, T2_AT, bpf_cpu_to_be64(ntp(wall_ns - 510000)));
		PUT(u32, SENDER_SEQUENCE_AT, sequence);
		PUT(u64, T1_AT, bpf_cpu_to_be64(ntp(wall_ns - 1010000)));
	} else {
		PUT(u64, T3_AT, bpf_cpu_to_be64(ntp(wall_ns)));
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	check = ~(sum + (sum >> 16));
	if (!check)
		check = 0xffff;
	*(u16 *)(udp + UDP_CHECK_AT) = check;
	now->session++;
	if (now->session >= now->sessions) {
		now->session = 0;
		now->sequence++;
	}
}

// Wait for the next packet's time, but not for long: whether it has come. The clock
// is not read for a packet that was due at the last reading already.
static __always_inline bool due(struct schedule *now)
{
	u64 due_ns = now->next_due_ns;

	for (int i = 0; i < SPINS; i++) {
		if (now->read_ns >= due_ns)
			return due_ns < now->stop_ns;
		now->read_ns = bpf_ktime_get_ns();
	}
	return false;
}

static __always_inline void advance(struct schedule *now, u64 now_ns)
{
	u64 gap_q8 = now->gap_q8 + now->remainder_q8;
	u64 late_ns = now_ns - now->next_due_ns;

	if (late_ns > now->catch_up_ns) {
		now->slipped_ns += late_ns - now->catch_up_ns;
		now->next_due_ns += late_ns - now->catch_up_ns;
	}
	now->next_due_ns += gap_q8 >> 8;
	now->remainder_q8 = gap_q8 & 0xff;
}

int generate(struct xdp_md *ctx)
{
	u32 zero = 0, which = 0;
	struct schedule *now = schedules.lookup(&zero);
	struct template *from;
	u64 now_ns, *words;
	void *end;
	u32 at;

	if (!now)
		return XDP_ABORTED;
	if (!now->stop_ns) {
		now->read_ns = bpf_ktime_get_ns();
		now->next_due_ns = now->read_ns;
		now->stop_ns = now->read_ns + now->duration_ns;
	}
	if (!due(now)) {
		now->idle++;
		return XDP_DROP;
	}
	now_ns = now->read_ns;
	now->share_sum += now->share;
	if (now->share_sum >= SHARE_WHOLE) {
		now->share_sum -= SHARE_WHOLE;
		which = 1;
	}
	from = templates.lookup(&which);
	if (!from)
		return XDP_ABORTED;
	words = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if ((void *)(words + TEMPLATE_WORDS) > end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < TEMPLATE_WORDS; i++)
		words[i] = from->words[i];
	at = from->udp_at;
	if (which) {
		u8 *udp = (u8 *)words + (at & 0x3ff);

		if (at > 0x3ff || (void *)(udp + UDP_LENGTH + OPEN_LENGTH) > end)
			return XDP_ABORTED;
		stamp(now, from, udp, now_ns);
		now->stamp++;
	} else {
		now->data++;
	}
	advance(now, now_ns);
	if (bpf_xdp_adjust_tail(ctx, (int)from->length - 8 * TEMPLATE_WORDS))
		return XDP_ABORTED;
	return bpf_redirect(EGRESS, 0);
}
