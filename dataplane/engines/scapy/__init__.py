"""The `scapy` engine: the readable reference, as the paper's basic implementation (§VI-B).

Packets are built and dissected as Scapy layers (`layers`), leave through an
L3RawSocket6 (`transmission`) and are taken in by an AsyncSniffer with a BPF
filter (`sniffing`, `filters`). What a UDP socket would have done between wire and
application, and a sniffer does not, is in `delivery` and `kernel`. Schedules,
sessions and results are those of every engine.

A thousand packets a second or so are what it can reflect: it is for teaching,
and to hold the other engines against.
"""
