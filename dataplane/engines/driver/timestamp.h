/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Time as the wire has it, exactly as dataplane/stamp/timestamp.py rounds it.
 *
 * The clock is CLOCK_TAI, which the kernel steps and slews together with
 * CLOCK_REALTIME: a step of the wall clock is seen by the next packet. User space
 * keeps what the two differ by, TAI minus UTC in whole seconds, in struct clock.
 */
#ifndef STAMP_TIMESTAMP_H
#define STAMP_TIMESTAMP_H

#include "shared.h"

#define NS_PER_S 1000000000ULL
#define NTP_UNIX_OFFSET_S 2208988800ULL

#define ERROR_ESTIMATE_Z 0x4000

/* A moment, split once for whatever format is asked for. */
struct moment {
	__u64 seconds;			/* since 1970 TAI */
	__u64 nanoseconds;		/* below NS_PER_S */
};

#ifdef FIXED_CLOCK
/* What a test has put into struct clock, in the order of reading. */
#define READ_CLOCK(clock, reading) ((clock)->fixed_ns[reading])
#else
#define READ_CLOCK(clock, reading) bpf_ktime_get_tai_ns()
#endif

/* The first and the second reading of the clock for one packet. */
#define FIRST_READING 0
#define SECOND_READING 1

static __always_inline struct moment split_tai(__u64 tai_ns)
{
	struct moment moment = { .seconds = tai_ns / NS_PER_S };

	moment.nanoseconds = tai_ns - moment.seconds * NS_PER_S;
	return moment;
}

static __always_inline __u64 unix_ns(const struct clock *clock, __u64 tai_ns)
{
	return tai_ns - clock->tai_offset_s * NS_PER_S;
}

/* 64 bits in host order: RFC 5905 section 6, the fraction rounded to the nearest. */
static __always_inline __u64 ntp_timestamp(const struct clock *clock, struct moment moment)
{
	__u64 seconds = moment.seconds - clock->tai_offset_s + NTP_UNIX_OFFSET_S;

	return (seconds << 32) + ((moment.nanoseconds << 32) + NS_PER_S / 2) / NS_PER_S;
}

/* 64 bits in host order: RFC 8877 section 4.3. */
static __always_inline __u64 ptp_timestamp(struct moment moment)
{
	return moment.seconds << 32 | moment.nanoseconds;
}

static __always_inline __u64 wire_timestamp(const struct clock *clock, __u64 tai_ns, int ptp)
{
	struct moment moment = split_tai(tai_ns);

	return ptp ? ptp_timestamp(moment) : ntp_timestamp(clock, moment);
}

#endif
