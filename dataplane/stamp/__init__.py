"""STAMP (RFC 8762, RFC 8972, RFC 9503) without sockets or clocks.

Time is an argument, in integer nanoseconds. Nothing is re-exported here:
``dataplane.config`` needs ``timestamp`` and is needed by the state machines.
"""
