/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The Internet checksum (RFC 1071) of UDP packets. Sums are of 32-bit words as they
 * stand in memory, which only the order of bytes in the result depends on.
 */
#ifndef STAMP_CHECKSUM_H
#define STAMP_CHECKSUM_H

#include "parse.h"

/* bpf_csum_diff() takes no more at once on older kernels. */
#define SUM_STEP 512

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Of two zeros in one's complement UDP sends the other one (RFC 768). */
static __always_inline __u16 checksum(__u64 sum)
{
	__u16 check = ~folded(sum);

	return check ? check : 0xffff;
}

static __always_inline __u64 sum_words(const __u32 *word, int words)
{
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < words; i++)
		sum += word[i];
	return sum;
}

/* Of a header without options; RFC 791 section 3.1. */
static __always_inline int has_ipv4_checksum(const struct iphdr *ip4)
{
	return folded(sum_words((void *)ip4, sizeof(*ip4) / 4)) == 0xffff;
}

/* RFC 8200 section 8.1, RFC 768: addresses, length and protocol. */
static __always_inline __u64 sum_pseudo_header(const struct xdp_md *ctx,
					       const struct packet *packet, __u32 udp_length)
{
	__u64 sum = (__u64)htonl(NEXT_HEADER_UDP) + htonl(udp_length);

	if (packet->version == 6) {
		struct ipv6hdr *ip6 = bytes_at(ctx, packet->ip_at, sizeof(*ip6));

		return ip6 ? sum + sum_words((void *)&ip6->saddr, 8) : sum;
	} else {
		struct iphdr *ip4 = bytes_at(ctx, packet->ip_at, sizeof(*ip4));

		return ip4 ? sum + sum_words((void *)&ip4->saddr, 2) : sum;
	}
}

/* Adds `size` bytes, a constant, if `wanted` says that they are there. */
#define SUM_PIECE(size, wanted)							\
	do {									\
		if (wanted) {							\
			void *at = bytes_at(ctx, offset, size);			\
										\
			if (!at)						\
				return -1;					\
			sum = bpf_csum_diff(0, 0, at, size, sum);		\
			offset = (offset + (size)) & OFFSET_MAX;		\
		}								\
	} while (0)

/* `length` bytes, below 4 * SUM_STEP; negative where they are not all there. */
static __always_inline __s64 sum_bytes(const struct xdp_md *ctx, __u32 offset, __u32 length)
{
	__u32 sum = 0, last = 0;

	offset &= OFFSET_MAX;
	SUM_PIECE(512, length & 1024);
	SUM_PIECE(512, length & 1024);
	SUM_PIECE(512, length & 512);
	SUM_PIECE(256, length & 256);
	SUM_PIECE(128, length & 128);
	SUM_PIECE(64, length & 64);
	SUM_PIECE(32, length & 32);
	SUM_PIECE(16, length & 16);
	SUM_PIECE(8, length & 8);
	SUM_PIECE(4, length & 4);
	if (length & 2) {
		__u16 *pair = bytes_at(ctx, offset, 2);

		if (!pair)
			return -1;
		last = *pair;
		offset += 2;
	}
	if (length & 1) {
		__u8 *byte = bytes_at(ctx, offset, 1);

		if (!byte)
			return -1;
		/* What is missing behind it counts as zero. */
		last += htons(*byte << 8);
	}
	return (__u64)sum + last;
}

#endif
