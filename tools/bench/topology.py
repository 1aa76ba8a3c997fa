"""Names, addresses and SIDs of the bed.

    generator's namespace                    system's namespace
      near ═══ requests, data ═════════════►  near    STAMP, H.Encaps
      near ◄══ replies ════════════════════   near
      far  ◄══ encapsulated data ══════════   far

Data comes in on the near interface, is encapsulated (H.Encaps, two SIDs) and leaves
through the far one. STAMP packets have visited their SID list: their destination is
the system's own address and their SRH has no segments left. Replies take a SID list
back to the near interface.
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

NEAR = "near"
FAR = "far"

GENERATOR = IPv6Address("fd00:a::1")
"""The peer: Session-Sender for a reflector, Session-Reflector for a collector."""

SYSTEM = IPv6Address("fd00:a::2")
FAR_GENERATOR = IPv6Address("fd00:b::1")
FAR_SYSTEM = IPv6Address("fd00:b::2")
CUSTOMER = IPv6Address("fd00:d::1")
CUSTOMERS = IPv6Network("fd00:d::/64")

FORTH = IPv6Address("fc00:e::1")
"""A SID that packets to the system have visited."""

BACK = IPv6Address("fc00:f::1")
"""A SID that replies visit first; reached through the near interface."""

TUNNEL = (IPv6Address("fc00:1::1"), IPv6Address("fc00:2::d6"))
"""The SID list of the encapsulated data."""

TUNNELS = IPv6Network("fc00::/31")


def path_to(destination: IPv6Address, sids: int, first: IPv6Address) -> tuple[IPv6Address, ...]:
    """A SID list of `sids` in all, beginning with `first` and ending with `destination`.

    Empty for 0.
    """
    between = [IPv6Address(int(first) + number) for number in range(max(0, sids - 1))]
    return (*between, destination) if sids else ()
