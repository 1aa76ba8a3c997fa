/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the collector's programs and user space share, in the conventions of shared.h.
 * Its mirror in Python is collector_layouts.py.
 *
 * Rules that hold here:
 *
 * - A session has two maps of its own: `collection`, of one entry, and `slots`, with
 *   an entry for each sequence number that is remembered.
 * - Programs write under the session's lock. User space, which has no part in the
 *   lock, writes `next_sequence`, and a slot before `next_sequence` comes to it;
 *   everything else is written for it by the control program.
 * - A slot is written with its tag last, and `received` after the slot.
 */
#ifndef STAMP_COLLECTION_H
#define STAMP_COLLECTION_H

#include "../driver/shared.h"

#define SSIDS 65536
#define COLLECTOR_INTERFACES 4096	/* indices; what arrives elsewhere is handed up */
#define COMMANDS 1024			/* at once */
#define ORDER_MAX 1024			/* records that are found by order; a power of two */

#define DIRECTIONS 3			/* forward, backward, round-trip */
#define BUCKETS 1664			/* dataplane/histogram.py */
#define BUCKETS_CENTRE (BUCKETS / 2)

/* One packet that was sent, and its reply. A cache line. */
struct slot {
	__u64 sent_ns;			/* CLOCK_MONOTONIC */
	__s64 t1_ns;			/* of a record; before, 0 or one to use instead of the echoed */
	__u64 tag;			/* sequence number << 1 | whether its reply was received */
	__s64 t2_ns;
	__s64 t3_ns;
	__s64 t4_ns;
	__u64 index;			/* of the record, in order of arrival */
	__u32 reflector_sequence;
	__u16 error_estimate;		/* the reflector's */
	__u8 sender_ttl;
	__u8 flags;
};

#define RECORD_SENDER_SYNCHRONIZED 1	/* dataplane/measurement.py: RecordFlag */
#define RECORD_REFLECTOR_SYNCHRONIZED 2
#define RECORD_FLAGS 3
#define RECORD_T1_KERNEL 4		/* T1 is the kernel's */
#define RECORD_T4_USER 8		/* T4 is not the kernel's */
#define RECORD_PARITY 16		/* of the computation interval that it counts in */

/* What dataplane/statistics.py derives a DelayState from; sums are of 128 bits and more. */
struct delay_sums {
	__s64 origin_ns;		/* what sums and histogram are about */
	__s64 last_ns;
	__s64 min_ns;
	__s64 max_ns;
	__u64 sum_low;			/* signed */
	__u64 sum_high;
	__u64 squares_low;
	__u64 squares_high;
	__u64 squares_top;		/* of delays that are years apart */
	__u64 ipdv_low;			/* of absolute values */
	__u64 ipdv_high;
	__u64 ipdv_max_ns;
	__u64 octave;			/* by which the latest magnitude was shifted */
};

/* One computation interval, as far as replies go. */
struct interval_sums {
	__u64 samples;
	__u64 pairs;
	__u64 duplicates;
	__u64 late;
	__u64 reordered;
	__u64 reserved;
	struct delay_sums delay[DIRECTIONS];
};

/* Across intervals. */
struct running {
	__u64 received;			/* records so far: the index of the next one */
	__u64 highest;			/* sequence number, plus 1; 0 before the first */
	__u64 reordered;		/* so far */
	__u64 breaks;			/* records that do not follow on the one before, so far: */
	__u32 turns;			/* those of them that more than losses must have led to */
	__u32 next_number;		/* the reflector's, of the reply that would follow on */
	__u64 previous_sequence;	/* plus 1; 0 where the next packet makes no pair */
	__s64 previous_ns[DIRECTIONS];
};

struct collection {
	/* Where programs and user space meet. */
	__u64 lock;
	__u64 next_sequence;
	__u64 settled;			/* packets before this are not under way any more */
	__u64 boundary;			/* end of the current interval << 1 | its parity */
	__u64 horizon_ns;		/* no packet arrives before this any more */
	__u64 interval_ns;
	__u64 timeout_ns;
	__u64 mask;			/* of slots */
	/* What a reply looks like. */
	struct address reflector;
	struct address local;
	__be16 reflector_port;
	__be16 local_port;
	__u32 flags;
	__u64 pseudo;			/* the sum of the pseudo header, as in checksum.h */
	__s64 earliest_t1_ns;		/* T1 of no packet of this life is before it */
	struct running running;
	__s64 origin_ns[DIRECTIONS];	/* of intervals that begin; 0: at the first sample */
	struct interval_sums interval[2];	/* by parity */
	/* What the control program has copied for user space. */
	struct running running_then;
	struct interval_sums interval_then[2];
	__u32 order[ORDER_MAX];		/* sequence numbers of records, by index */
	__u32 histogram[2][DIRECTIONS][BUCKETS];
};

#define COLLECTION_STATEFUL 1		/* the reflector numbers its replies itself */

struct collector_config {
	__u64 monotonic_offset_ns;	/* CLOCK_MONOTONIC minus CLOCK_TAI */
	__u32 flags;
	__u32 reserved;
};

#define COLLECTOR_PARTIAL 1		/* as REFLECTOR_PARTIAL */

/* Of an interface whose untagged frames may be replies; a word for each index. */
#define COLLECTOR_MAC 0x0000ffffffffffffULL	/* as it stands in memory */
#define COLLECTOR_ADMITTED (1ULL << 48)
#define COLLECTOR_SRV6 (1ULL << 49)
#define COLLECTOR_SIGNED (1ULL << 50)	/* as INTERFACE_SIGNED */

/* Why a packet to a Session-Sender's port is handed up to user space. */
enum collector_up {
	COLLECTOR_UP_FORM,		/* a fragment, TLVs in the SRH, options, IPv4 */
	COLLECTOR_UP_LENGTH,		/* headers disagree about its length */
	COLLECTOR_UP_SHORT,		/* shorter than a base packet */
	COLLECTOR_UP_TRAILER,		/* TLVs, or authenticated */
	COLLECTOR_UP_SESSION,		/* no session has its SSID; 0 among them */
	COLLECTOR_UP_PEER,		/* not from or to where its session is */
	COLLECTOR_UP_INTERFACE,		/* arrived where it may not, or who knows where */
	COLLECTOR_UP_CHECKSUM,
	COLLECTOR_UP_MULTIPLIER,
	COLLECTOR_UP_SEQUENCE,		/* never sent, or in an earlier life */
	COLLECTOR_UP_COPY,		/* made on the forward path: it has a number of its own */
	COLLECTOR_UP_AHEAD,		/* user space is an interval behind */
	COLLECTOR_UP_BUSY,		/* another CPU has the session; may be overtaken on its way up */
	COLLECTOR_UP_REASONS = 16,
};

/* For each CPU. */
struct collector_counters {
	__u64 collected;
	__u64 duplicates;
	__u64 late;
	__u64 handed_up[COLLECTOR_UP_REASONS];
};

/* What the control program is asked: its packet, which is also its answer. */
struct command {
	__u16 ssid;
	__u16 parity;			/* of the interval to be reset */
	__u32 flags;
	__u64 now_ns;			/* CLOCK_MONOTONIC */
	__u64 settled;
	__u64 boundary;
	__u64 sequence;			/* of a reply that user space has judged */
	__s64 t1_ns;
	__s64 t2_ns;
	__s64 t3_ns;
	__s64 t4_ns;
	__s64 forward_origin_ns;
	__s64 backward_origin_ns;
	__s64 round_trip_origin_ns;
	__u32 reflector_sequence;
	__u16 error_estimate;
	__u8 sender_ttl;
	__u8 record_flags;
	__u32 outcome;
	__u32 reserved_too;
};

/* Of the map `commands`, those that are still to be carried out: a packet. */
struct command_range {
	__u64 next;
	__u64 end;
};

/* In this order: */
#define COMMAND_RECORD 1		/* take the reply in */
#define COMMAND_BREAK_PAIRS 2		/* the next packet makes no pair */
#define COMMAND_COPY 4			/* copy what changes */
#define COMMAND_RESET 8			/* begin the sums of an interval anew */
#define COMMAND_BOUNDARY 16		/* set `boundary` */
#define COMMAND_ORIGIN 32		/* set the origins */

enum outcome {
	OUTCOME_NONE,
	OUTCOME_RECORDED,
	OUTCOME_DUPLICATE,
	OUTCOME_LATE,
	OUTCOME_COPY,
	OUTCOME_AHEAD,
	OUTCOME_BUSY,
};

#endif
