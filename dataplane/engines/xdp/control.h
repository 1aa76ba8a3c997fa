/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * What user space has done under a session's lock. It is run by BPF_PROG_RUN and
 * attached nowhere; its packet is a struct command, or says which of the map `commands`
 * are to be carried out.
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

static __always_inline int carry_out(struct command *command)
{
	struct collection *session = collection_of(command->ssid);

	if (!session)
		return XDP_ABORTED;
	command->outcome = OUTCOME_BUSY;
	if (!lock(session, CONTROL_LOCK_TRIES)) {
		obey(session, command);
		unlock(session);
	}
	return XDP_PASS;
}

static __always_inline int run_control(struct xdp_md *ctx)
{
	struct command *command = (void *)(long)ctx->data;

	if ((void *)(command + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	return carry_out(command);
}

BPF_F_TABLE("array", int, struct command, commands, COMMANDS, BPF_F_MMAPABLE);
BPF_PROG_ARRAY(next_controls, 1);

/*
 * One of many, and then the next by a tail call, of which the kernel allows some thirty in
 * a run. To repeat a test run would do as well, but the kernel waits for a grace period then.
 */
static __always_inline int run_controls(struct xdp_md *ctx)
{
	struct command_range *range = (void *)(long)ctx->data;
	struct command *command;
	int index;

	if ((void *)(range + 1) > (void *)(long)ctx->data_end || range->next >= range->end)
		return XDP_PASS;
	index = range->next;
	command = commands.lookup(&index);
	if (!command)
		return XDP_ABORTED;
	carry_out(command);
	range->next++;
	next_controls.call(ctx, 0);
	return XDP_PASS;
}

#endif
