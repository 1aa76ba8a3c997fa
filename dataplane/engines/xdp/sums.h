/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Running statistics in integers, without loss: what dataplane/statistics.py and
 * dataplane/histogram.py compute comes out of them in user space.
 */
#ifndef STAMP_SUMS_H
#define STAMP_SUMS_H

#include "collection.h"

#define UNIT_BITS 8
#define SUB_BITS 4
#define SMALL_BITS 31			/* what has a square that fits */

static __always_inline void add_128(__u64 *low, __u64 *high, __u64 value, __u64 value_high)
{
	*low += value;
	*high += value_high + (*low < value);
}

/* A square, or a part of one, of which `high` is never all ones. */
static __always_inline void add_square(struct delay_sums *sums, __u64 low, __u64 high)
{
	sums->squares_low += low;
	high += sums->squares_low < low;
	sums->squares_high += high;
	sums->squares_top += sums->squares_high < high;
}

static __always_inline __u64 difference_of(__s64 a, __s64 b)
{
	return a > b ? (__u64)a - (__u64)b : (__u64)b - (__u64)a;
}

/* How far to shift a magnitude until SUB_BITS + 1 bits are left. */
static __always_inline __u32 octave_of(__u64 magnitude)
{
	__u64 rest = magnitude >> (SUB_BITS + 1);
	__u32 octave = 0;

	if (rest >> 32) {
		rest >>= 32;
		octave += 32;
	}
	if (rest >> 16) {
		rest >>= 16;
		octave += 16;
	}
	if (rest >> 8) {
		rest >>= 8;
		octave += 8;
	}
	if (rest >> 4) {
		rest >>= 4;
		octave += 4;
	}
	if (rest >> 2) {
		rest >>= 2;
		octave += 2;
	}
	if (rest >> 1) {
		rest >>= 1;
		octave += 1;
	}
	return octave + rest;
}

/* dataplane/histogram.py: distance(). */
static __always_inline __s64 distance(__s64 delay, __s64 origin)
{
	__s64 apart = (__u64)delay - (__u64)origin;

	if (((delay ^ origin) & (delay ^ apart)) >= 0)
		return apart;
	return (delay >> 63) ^ 0x7fffffffffffffffLL;
}

/* dataplane/histogram.py. A delay is mostly in the octave that the one before was in. */
static __always_inline __u32 bucket_of(struct delay_sums *sums, __s64 value)
{
	__u64 magnitude = (__u64)(value ^ (value >> 63)) >> UNIT_BITS;
	__u64 octave = sums->octave & 63;
	__u64 bucket = magnitude >> octave;

	if (bucket >> SUB_BITS != 1) {
		octave = octave_of(magnitude);
		sums->octave = octave;
		bucket = magnitude >> octave;
	}
	bucket += octave << SUB_BITS;
	return value < 0 ? BUCKETS_CENTRE - 1 - bucket : BUCKETS_CENTRE + bucket;
}

/* A sample that is seconds away from the origin: all of its square's 128 bits. */
static __always_inline void add_large(struct delay_sums *sums, __s64 value)
{
	__u64 apart = difference_of(value, sums->origin_ns);
	__u64 low = apart & 0xffffffff, high = apart >> 32;
	__u64 middle = low * high;

	if (value < sums->origin_ns)
		add_128(&sums->sum_low, &sums->sum_high, -apart, -1);
	else
		add_128(&sums->sum_low, &sums->sum_high, apart, 0);
	add_square(sums, low * low, high * high);
	add_square(sums, middle << 33, middle >> 31);
}

static __always_inline void add_sample(struct delay_sums *sums, __u32 *histogram, __s64 value,
				       __u64 samples, __s64 *origin)
{
	__s64 apart;
	__u32 bucket;

	if (!samples) {
		if (!*origin)
			*origin = value | 1;
		sums->origin_ns = *origin;
		sums->min_ns = value;
		sums->max_ns = value;
	} else if (value < sums->min_ns) {
		sums->min_ns = value;
	} else if (value > sums->max_ns) {
		sums->max_ns = value;
	}
	sums->last_ns = value;
	apart = (__u64)value - (__u64)sums->origin_ns;
	if ((__u64)apart + (1ULL << SMALL_BITS) < 2ULL << SMALL_BITS) {
		add_128(&sums->sum_low, &sums->sum_high, apart, apart >> 63);
		add_128(&sums->squares_low, &sums->squares_high, apart * apart, 0);
	} else {
		add_large(sums, value);
	}
	bucket = bucket_of(sums, distance(value, sums->origin_ns));
	if (bucket < BUCKETS)
		histogram[bucket]++;
}

/* A packet and the one before it, by sequence number. */
static __always_inline void add_pair(struct delay_sums *sums, __s64 value, __s64 previous)
{
	__u64 ipdv = difference_of(value, previous);

	add_128(&sums->ipdv_low, &sums->ipdv_high, ipdv, 0);
	if (ipdv > sums->ipdv_max_ns)
		sums->ipdv_max_ns = ipdv;
}

#endif
