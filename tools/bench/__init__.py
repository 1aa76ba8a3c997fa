"""stamp-bench: what measuring with STAMP costs the traffic of the node that does it."""
