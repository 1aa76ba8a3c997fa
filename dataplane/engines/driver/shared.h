/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What every program and user space share: the node. Its mirror in Python is layouts.py;
 * a test compares the two by what the kernel knows of the maps (BTF).
 *
 * Addresses, ports and SSIDs are in network order, everything else is in the
 * machine's. An IPv4 address is written as IPv4-mapped (RFC 4291 section 2.5.5.2).
 */
#ifndef STAMP_SHARED_H
#define STAMP_SHARED_H

#include <uapi/linux/types.h>

#define VLAN_TAGS_MAX 2
#define PORT_WORDS 1024			/* UDP ports, 64 to a word */

struct address {
	__be32 word[4];
};

/* One for all programs of an engine; written by user space. */
struct clock {
	__u64 tai_offset_s;		/* TAI minus UTC */
	__u32 error_estimate;		/* RFC 8762 section 4.2.1, with Z clear */
	__u32 reserved;
	__u64 fixed_ns[2];		/* CLOCK_TAI of a test, see timestamp.h */
};

/* Where frames may come from, and be sent to. */
struct interface_key {
	__u32 ifindex;			/* where the program is attached */
	__u32 vlan[VLAN_TAGS_MAX];	/* protocol, identifier; outermost first; 0 for no tag */
};

#define INTERFACE_SRV6 1			/* takes Segment Routing Headers (seg6_enabled) */
#define INTERFACE_GENERIC 2		/* a checksum that is left open is filled in later on */
#define INTERFACE_LOOSE 4		/* IPv4 sources need a route (rp_filter), */
#define INTERFACE_STRICT 8		/* through the device that they came from */
#define INTERFACE_SIGNED 16		/* refuses an SRH without HMAC, of a SID's as well (seg6_require_hmac) */

struct interface {
	__u32 ifindex;			/* the network device that the kernel gives the frame to */
	__u16 flags;
	__u8 mac[6];			/* frames for another one are another host's */
};

/* An IPv6 or IPv4 address of this node, or a SID that it decapsulates at. */
#define LOCAL_ADDRESS 1
#define LOCAL_DECAPSULATES_IPV6 2
#define LOCAL_DECAPSULATES_IPV4 4

struct local {
	__u32 flags;
};

#endif
