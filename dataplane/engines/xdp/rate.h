/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * How many requests a source may send: a token bucket, kept as the moment at which it
 * will be full again (the virtual scheduling of ITU-T I.371, annex A).
 *
 * Sources that have not been heard of for the longest make room for new ones. Two CPUs
 * that serve one source at once may let a few more through.
 */
#ifndef STAMP_RATE_H
#define STAMP_RATE_H

#include "reflection.h"

BPF_TABLE("lru_hash", struct address, __u64, sources, SOURCES_MAX);

static __always_inline int within_rate(const struct reflector_config *config,
				       struct address *source, __u64 now_ns)
{
	__u64 interval_ns = config->rate_interval_ns;
	__u64 burst_ns = config->rate_burst_ns;
	__u64 *known, full_ns;

	if (!interval_ns)
		return 1;
	known = sources.lookup(source);
	if (!known) {
		full_ns = now_ns + interval_ns;
		sources.update(source, &full_ns);
		return 1;
	}
	full_ns = *known;
	/* The past, and what no bucket comes to, because the clock has been set back. */
	if (full_ns - now_ns > burst_ns + interval_ns)
		full_ns = now_ns;
	if (full_ns - now_ns > burst_ns)
		return 0;
	*known = full_ns + interval_ns;
	return 1;
}

#endif
