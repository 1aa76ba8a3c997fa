"""What every engine must do, whatever carries its packets.

Each test runs for each engine of the registry: one that is registered is covered.
Packets are made by hand (`wire`) and enter the node through the peer's side of a
link (`stand`), as they would from a network; what the node sends is captured there.
What an engine says it lacks turns a test into one of the refusal.
"""
