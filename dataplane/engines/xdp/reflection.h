/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What the reflector's programs and user space share, in the conventions of shared.h.
 * Its mirror in Python is reflector_layouts.py.
 */
#ifndef STAMP_REFLECTION_H
#define STAMP_REFLECTION_H

#include "../driver/shared.h"

#ifndef SESSIONS_MAX
#define SESSIONS_MAX 16384		/* reflector sessions */
#endif
#ifndef SEGMENTS_MAX
#define SEGMENTS_MAX 16			/* of a return path, the sender's address aside */
#endif
#ifndef SOURCES_MAX
#define SOURCES_MAX 65536		/* senders whose rate is remembered */
#endif

#define REFLECTOR_ENABLED 1
#define REFLECTOR_ANY_SESSION 2		/* answers without a configured session */
#define REFLECTOR_ONE_ADDRESS 4		/* listens on `address` alone */
#define REFLECTOR_TRAILERS 8		/* what follows the base packet is copied, whatever it is */
#define REFLECTOR_PARTIAL 16		/* checksums may be left open, for an interface that is none */

struct reflector_config {
	struct address address;
	__be16 port;
	__u16 flags;
	__u32 epoch;			/* changes whenever next hops have to be found anew */
	__u64 rate_interval_ns;		/* one request of a source in this time; 0 for no limit */
	__u64 rate_burst_ns;		/* how far ahead of its rate a source may be */
};

struct session_key {
	struct address address;		/* all zero for any sender */
	__be16 ssid;
	__u16 reserved;
};

/* Which sessions an SSID has, two bits each: 32 SSIDs a word. */
#define SSID_ONE_SENDER 1
#define SSID_ANY_SENDER 2
#define SSIDS_IN_WORD 32
#define WORDS_OF_SSIDS 2048

#define SESSION_ENABLED 1
#define SESSION_STATEFUL 2
#define SESSION_FORMAT 4		/* replies have a format of their own, */
#define SESSION_PTP 8			/* which is PTPv2 */

struct session {
	__u32 slot;			/* index of its state; 0 is not used */
	__be16 sender_port;		/* 0 for any */
	__u8 flags;
	__u8 segments;			/* how many of `segment` there are */
	struct address segment[SEGMENTS_MAX];	/* as in an SRH: the last is visited first */
};

/* What a session counts; at index 0, requests without a session. */
struct session_state {
	__u64 next_sequence;		/* of a stateful session; its lower 32 bits */
	__u64 answered;			/* in the driver */
	__u64 last_received_ns;		/* T2, since 1970 */
};

/* Why a STAMP packet is handed up to user space. */
enum handed_up {
	UP_FRAGMENT,
	UP_SRH_TLV,
	UP_LENGTH,			/* headers disagree about its length, or it is too long */
	UP_SHORT,			/* shorter than a base packet, which the reply is not */
	UP_TRAILER,			/* TLVs */
	UP_CHECKSUM,			/* the kernel judges it */
	UP_LINK_LOCAL,
	UP_IPV4_OPTIONS,
	UP_NEXT_HOP,			/* none is known, or none that a driver can send to */
	UP_TOO_BIG,			/* with its return path the reply exceeds the MTU */
	UP_HEAD_ROOM,			/* no room in front of the packet for the return path */
	UP_IPV6_OPTIONS,		/* Hop-by-Hop or Destination Options */
	UP_REASONS = 16,
};

/* dataplane/session_state.py: DISCARD_INDEX; a test compares. */
enum discarded {
	DISCARD_TRUNCATED = 0,
	DISCARD_ZERO_MULTIPLIER = 1,
	DISCARD_UNKNOWN_SESSION = 2,
	DISCARD_WRONG_PORT = 3,
	DISCARD_SESSION_DISABLED = 7,
	DISCARD_UNANSWERABLE = 9,
	DISCARD_RATE_LIMITED = 12,
	DISCARD_REASONS = 16,
};

/* For each CPU. */
struct reflector_counters {
	__u64 answered;
	__u64 handed_up[UP_REASONS];
	__u64 discarded[DISCARD_REASONS];
};

/* How replies of a session leave, for a while; for each CPU. */
struct next_hop {
	struct address local;		/* for replies from this address */
	struct address next;		/* to this address, or this first segment */
	__u64 until_ns;			/* good until CLOCK_TAI comes to this */
	__u32 epoch;
	__u32 ingress;			/* for requests from here */
	__u32 vlan[VLAN_TAGS_MAX];
	__be32 flow;			/* and what else rules and paths may be chosen by */
	__be16 local_port;
	__be16 port;
	__u32 egress;			/* 0: back to the neighbour that sent the request */
	__u8 destination_mac[6];
	__u8 source_mac[6];
	__u32 mtu;			/* of the route, or the interface */
	struct interface device;	/* that `ingress` and `vlan` are */
};

#endif
