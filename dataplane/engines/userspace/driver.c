/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * STAMP packets straight to the sockets (AF_XDP) of the userspace engine.
 *
 * Rules that hold here:
 *
 * - The clock is read before anything else is done with a packet to a port of ours.
 * - A packet is taken only if the kernel would have given it to the engine's UDP socket:
 *   its destination and interface, its checksum, its length. Everything else passes,
 *   unchanged, and reaches that socket if it is to. IPv4 is among it, whose senders the
 *   kernel believes by rules of its own (rp_filter).
 * - Of a packet that is taken user space gets the UDP payload, with a struct arrival in
 *   front of it, in place of the headers that it sums up: at the start of the frame, for
 *   which every driver has room.
 */
#include "../driver/checksum.h"
#include "../driver/node.h"
#include "../driver/timestamp.h"
#include "driver.h"

BPF_F_TABLE("array", int, struct arrivals_config, arrivals_configs, 1, BPF_F_MMAPABLE);
BPF_F_TABLE("array", int, __u64, receiver_ports, PORT_WORDS, BPF_F_MMAPABLE);
BPF_F_TABLE("hash", struct receiver_key, __u32, receivers, RECEIVERS_MAX, BPF_F_NO_PREALLOC);
BPF_XSKMAP(sockets, RECEIVERS_MAX);

/* Whether a port is one of ours: most packets are done with here. */
static __always_inline int is_received(const struct packet *packet)
{
	__u32 port = ntohs(packet->destination_port);
	int index = port / 64;
	__u64 *word = receiver_ports.lookup(&index);

	return word && *word >> (port & 63) & 1;
}

static __always_inline int is_link_local(const struct address *address)
{
	return (address->word[0] & htonl(0xffc00000)) == htonl(0xfe800000);
}

/* The socket for a packet: of its own address, or of any; NULL where there is none. */
static __always_inline __u32 *receiver_of(const struct xdp_md *ctx, const struct packet *packet,
					  const struct address *destination)
{
	struct receiver_key key = {
		.address = *destination,
		.ifindex = packet->ifindex,
		.queue = ctx->rx_queue_index,
		.port = packet->destination_port,
	};
	__u32 *found = receivers.lookup(&key);

	if (found)
		return found;
	key.address = (struct address){};
	return receivers.lookup(&key);
}

/* Whether the checksum is right, or left open by a sender on this machine. */
static __always_inline int has_checksum(const struct xdp_md *ctx, const struct packet *packet,
					__be16 check, __u32 udp_length)
{
	__u64 pseudo = sum_pseudo_header(ctx, packet, udp_length);
	struct arrivals_config *config;
	int index = 0;
	__s64 sum;

	if (!check)
		return 0;
	config = arrivals_configs.lookup(&index);
	if (config && config->flags & ARRIVALS_PARTIAL && check == folded(pseudo))
		return 1;
	sum = sum_bytes(ctx, packet->udp_at, udp_length);
	/* What is checked is part of the sum: complements come to one of the zeros. */
	return sum >= 0 && folded(pseudo + sum) == 0xffff;
}

/* Fills `arrival`; negative where the packet is not for user space to have this way. */
static __always_inline int read_arrival(const struct xdp_md *ctx, const struct packet *packet,
					struct arrival *arrival)
{
	struct interface *device;
	struct ipv6hdr *ip6;
	struct udphdr *udp;
	__u32 udp_length;
	__be16 check;

	if (packet->form != FORM_PLAIN || packet->version != 6 ||
	    read_addresses(ctx, packet, &arrival->source, &arrival->destination))
		return -1;
	ip6 = bytes_at(ctx, packet->ip_at, sizeof(*ip6));
	udp = bytes_at(ctx, packet->udp_at, sizeof(*udp));
	if (!ip6 || !udp || is_link_local(&arrival->source))
		return -1;
	arrival->hop_limit = ip6->hop_limit;
	arrival->traffic_class = ntohl(*(__be32 *)ip6) >> 20;
	udp_length = ntohs(udp->len);
	check = udp->check;
	if (!agrees_on_end(packet, udp_length) || udp_length > sizeof(*udp) + ARRIVAL_LENGTH_MAX)
		return -1;
	arrival->source_port = packet->source_port;
	arrival->length = udp_length - sizeof(*udp);
	device = device_of(packet);
	if (!device || !takes(ctx, packet, device))
		return -1;
	arrival->ifindex = device->ifindex;
	if (!decapsulates(ctx, packet) || !has_address(&arrival->destination, LOCAL_ADDRESS))
		return -1;
	return has_checksum(ctx, packet, check, udp_length) ? 0 : -1;
}

/* A packet to a port of ours. */
static __always_inline int receive(struct xdp_md *ctx, const struct packet *packet)
{
	struct arrival arrival = {}, *front;
	struct clock *clock;
	__u32 *receiver;
	__u64 tai_ns;
	int index = 0, socket;

	clock = clocks.lookup(&index);
	if (!clock)
		return XDP_PASS;
	tai_ns = READ_CLOCK(clock, FIRST_READING);
	packet = keep(packet);
	if (!packet || read_arrival(ctx, packet, &arrival))
		return XDP_PASS;
	receiver = receiver_of(ctx, packet, &arrival.destination);
	if (!receiver)
		return XDP_PASS;
	socket = *receiver;
	if (!sockets.lookup(&socket))
		return XDP_PASS;
	arrival.received_ns = unix_ns(clock, tai_ns);
	if (bpf_xdp_adjust_head(ctx, (int)(packet->udp_at + sizeof(struct udphdr)) -
				     (int)sizeof(arrival)))
		return XDP_PASS;
	front = bytes_at(ctx, 0, sizeof(*front));
	if (!front)
		return XDP_ABORTED;
	*front = arrival;
	return sockets.redirect_map(socket, XDP_DROP);
}

/* Any frame. */
int receiver(struct xdp_md *ctx)
{
	struct packet packet;

	if (find_udp(ctx, &packet) != FOUND_UDP || !is_received(&packet))
		return XDP_PASS;
	return receive(ctx, &packet);
}
