"""The demonstration: two SRv6 paths with known delay and loss, measured through NETCONF."""
