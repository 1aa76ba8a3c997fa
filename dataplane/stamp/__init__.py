"""STAMP (RFC 8762, RFC 8972, RFC 9503) without sockets or clocks.

Time is an argument, in integer nanoseconds. Nothing is re-exported here:
``dataplane.config`` needs ``timestamp`` and is needed by the state machines.

Where to begin:

- `packet` and `timestamp` are the wire.
- `session_sender`, `collector` and `session_reflector` are the state machines, a packet
  at a time. They are the reference: read these first.
- `Collector` is made of layers: `packet_fates` knows which packets are under way and what
  was lost, `reply_taking` makes a record and statistics of one reply, `run_taking` of many,
  and `intervals` closes the computation intervals of them all.

The other modules do the same work for many packets at once, and are chosen by how they
come. Property tests hold each of them against the reference:

- many replies of few sessions: runs (`collector_batch`, `run_taking`);
- few packets of each of many sessions: rounds over the rows of a `session_table`
  (`sender_rounds`, `collector_rounds`, `interval_rounds`);
- many requests: flows (`reflector_flows`).

The programs of the engine ``xdp`` do it once more, in the driver, and are held against
the same reference.
"""
