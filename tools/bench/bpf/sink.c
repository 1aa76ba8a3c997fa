// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// Where the packets of the bench end: at the generator's interfaces, counted by
// what they are, or, as the bare programs that engines are compared with, at the
// system under test's own.

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ipv6.h>

// See `COUNTS` in sink.py. One NAPI thread serves each interface: nothing is atomic.
struct counts {
	u64 encapsulated;	// IPv6 in IPv6, with or without an SRH: forwarded data
	u64 reflected;		// UDP, with or without an SRH: STAMP packets
	u64 plain;		// other IPv6
	u64 other;
};

BPF_F_TABLE("array", u32, struct counts, counts, SINKS, BPF_F_MMAPABLE);

struct routing_header {
	u8 next_header;
	u8 length;
};

static __always_inline void count(struct xdp_md *ctx, struct counts *into)
{
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct ipv6hdr *ip = (void *)(eth + 1);
	struct routing_header *routing = (void *)(ip + 1);
	u8 next;

	if ((void *)(routing + 1) > end || eth->h_proto != __builtin_bswap16(ETH_P_IPV6)) {
		into->other++;
		return;
	}
	next = ip->nexthdr == IPPROTO_ROUTING ? routing->next_header : ip->nexthdr;
	if (next == IPPROTO_IPV6)
		into->encapsulated++;
	else if (next == IPPROTO_UDP)
		into->reflected++;
	else
		into->plain++;
}

static __always_inline int sink(struct xdp_md *ctx, u32 which, int action)
{
	struct counts *into = counts.lookup(&which);

	if (into)
		count(ctx, into);
	return action;
}

int sink_near(struct xdp_md *ctx) { return sink(ctx, 0, XDP_DROP); }
int sink_far(struct xdp_md *ctx) { return sink(ctx, 1, XDP_DROP); }

int bare_drop(struct xdp_md *ctx) { return sink(ctx, 2, XDP_DROP); }
int bare_tx(struct xdp_md *ctx) { return XDP_TX; }
int pass_on(struct xdp_md *ctx) { return XDP_PASS; }
