/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Programs for collector_cost.py. The kernel's test bench gives a program the same
 * packet over and over: here, each time, it becomes the reply to the next packet that
 * was announced, which is measured by itself, too.
 */
#include "control.h"

struct feed {
	__u64 base_at;			/* where the base packet is in the frame */
	__u64 sequence;
	__u64 sum;			/* of the UDP packet with the numbers 0 */
	__u64 counted;
};

BPF_F_TABLE("array", int, struct feed, feeds, 1, BPF_F_MMAPABLE);

static __always_inline struct feed *feed(struct xdp_md *ctx)
{
	int index = 0;
	struct feed *feed = feeds.lookup(&index);
	struct datagram *datagram;
	__be32 sequence;

	if (!feed)
		return 0;
	datagram = bytes_at(ctx, feed->base_at, sizeof(*datagram));
	if (!datagram)
		return 0;
	sequence = htonl(feed->sequence++);
	datagram->base[0] = sequence;
	datagram->base[6] = sequence;
	datagram->udp.check = checksum(feed->sum + 2 * (__u64)sequence);
	return feed;
}

int fed_collector(struct xdp_md *ctx)
{
	feed(ctx);
	return run_collector(ctx);
}

/* What the collector is compared with. */
int fed_drop(struct xdp_md *ctx)
{
	struct feed *fed = feed(ctx);

	if (fed)
		fed->counted++;
	return XDP_DROP;
}

int counting_drop(struct xdp_md *ctx)
{
	int index = 0;
	struct feed *feed = feeds.lookup(&index);

	if (feed)
		feed->counted++;
	return XDP_DROP;
}

int clock_drop(struct xdp_md *ctx)
{
	int index = 0;
	struct feed *feed = feeds.lookup(&index);

	if (feed)
		feed->counted += bpf_ktime_get_tai_ns();
	return XDP_DROP;
}

int control(struct xdp_md *ctx)
{
	return run_control(ctx);
}
