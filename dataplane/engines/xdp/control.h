/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What user space has done under a session's lock. It is run by BPF_PROG_RUN and
 * attached nowhere; its packet is a struct command.
 */
#ifndef STAMP_CONTROL_H
#define STAMP_CONTROL_H

#include "collect.h"

#define CONTROL_LOCK_TRIES 256
#define SUMS_WORDS (sizeof(struct interval_sums) / sizeof(__u64))
#define COUNTS_WORDS (DIRECTIONS * BUCKETS / 2)

static __always_inline enum outcome record(struct collection *session, struct command *command)
{
	struct reply reply = {
		.now_ns = command->now_ns,
		.sequence = command->sequence,
		.t1_ns = command->t1_ns,
		.t2_ns = command->t2_ns,
		.t3_ns = command->t3_ns,
		.t4_ns = command->t4_ns,
		.reflector_sequence = command->reflector_sequence,
		.error_estimate = command->error_estimate,
		.sender_ttl = command->sender_ttl,
		.flags = command->record_flags,
	};
	struct slot *slot = slot_of(session, command->ssid, command->sequence);

	return slot ? take_in(session, slot, &reply) : OUTCOME_NONE;
}

static __always_inline void copy(struct collection *session)
{
	const __u64 *from = (void *)&session->interval;
	volatile __u64 *to = (void *)&session->interval_then;

	session->running_then = session->running;
	for (int i = 0; i < 2 * SUMS_WORDS; i++)
		to[i] = from[i];
}

static __always_inline void reset(struct collection *session, int parity)
{
	/* Volatile: there is no memset() for the compiler to call. */
	volatile __u64 *sums = (void *)&session->interval[parity];
	volatile __u64 *counts = (void *)&session->histogram[parity];

	for (int i = 0; i < SUMS_WORDS; i++)
		sums[i] = 0;
	for (int i = 0; i < COUNTS_WORDS; i++)
		counts[i] = 0;
}

static __always_inline void obey(struct collection *session, struct command *command)
{
	if (command->flags & COMMAND_RECORD) {
		command->outcome = record(session, command);
		return;
	}
	if (command->now_ns > session->horizon_ns)
		session->horizon_ns = command->now_ns;
	if (command->settled > session->settled)
		session->settled = command->settled;
	if (command->flags & COMMAND_BREAK_PAIRS)
		session->running.previous_sequence = 0;
	if (command->flags & COMMAND_COPY)
		copy(session);
	if (command->flags & COMMAND_RESET)
		reset(session, command->parity & 1);
	if (command->flags & COMMAND_BOUNDARY)
		session->boundary = command->boundary;
	if (command->flags & COMMAND_ORIGIN) {
		session->origin_ns[0] = command->forward_origin_ns;
		session->origin_ns[1] = command->backward_origin_ns;
		session->origin_ns[2] = command->round_trip_origin_ns;
	}
	command->outcome = OUTCOME_NONE;
}

static __always_inline int run_control(struct xdp_md *ctx)
{
	struct command *command = (void *)(long)ctx->data;
	struct collection *session;

	if ((void *)(command + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	session = collection_of(command->ssid);
	if (!session)
		return XDP_ABORTED;
	command->outcome = OUTCOME_BUSY;
	if (!lock(session, CONTROL_LOCK_TRIES)) {
		obey(session, command);
		unlock(session);
	}
	return XDP_PASS;
}

#endif
