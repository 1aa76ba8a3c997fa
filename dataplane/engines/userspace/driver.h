/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What driver.c and user space share, in the conventions of shared.h. Its mirror in Python
 * is driver_layouts.py.
 */
#ifndef STAMP_DRIVER_H
#define STAMP_DRIVER_H

#include "../driver/shared.h"

#ifndef RECEIVERS_MAX
#define RECEIVERS_MAX 4096		/* AF_XDP sockets */
#endif

#define ARRIVAL_LENGTH_MAX 1728		/* bytes of UDP payload: with struct arrival, what a chunk holds */

/* Where a packet has to have arrived, and what for. */
struct receiver_key {
	struct address address;		/* all zero for any */
	__u32 ifindex;			/* that has the program */
	__u32 queue;
	__be16 port;
	__u16 reserved;
};

#define ARRIVALS_PARTIAL 1		/* checksums may be left open, for an interface that is none */

struct arrivals_config {
	__u64 flags;
};

/* What stands in front of a UDP payload on its way to user space. */
struct arrival {
	struct address source;
	struct address destination;
	__s64 received_ns;		/* since 1970 UTC */
	__u32 length;			/* of the payload */
	__u32 ifindex;			/* of the device that the kernel would have given it to */
	__be16 source_port;
	__u8 hop_limit;
	__u8 traffic_class;
	__u32 reserved;
};

#endif
