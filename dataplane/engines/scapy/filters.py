"""The BPF filter of the sniffer, in the language of pcap-filter(7).

`udp port 862` looks for a UDP header right behind the IPv6 header and so misses
what arrives with a Segment Routing Header or encapsulated. Here the offset of the
UDP header is computed by the filter program itself, for each of these forms:

    IPv6 UDP                    SRH popped, decapsulated, or never there
    IPv6 SRH UDP                Segments Left 0: arrived
    IPv6 IPv6 UDP               encapsulated, SRH popped
    IPv6 IPv6 SRH UDP
    IPv6 SRH IPv6 UDP           encapsulated
    IPv6 SRH IPv6 SRH UDP

and for IPv4, where UDP is behind IPv4 instead of the innermost IPv6 header.

The packet begins with the IP header, as an AF_PACKET/SOCK_DGRAM socket reads
it, and carries no VLAN tag any more. Packets with Hop-by-Hop or Destination
Options are admitted unseen, for they are rare. An SRH that has segments left is
somebody else's to receive. IP fragments are not reassembled.
"""

from __future__ import annotations

NH_HOP_BY_HOP, NH_UDP, NH_IPV6, NH_ROUTING, NH_DESTINATION = 0, 17, 41, 43, 60
NH_IPV4 = 4

_NEXT_HEADER = 6
_IPV6_LENGTH = 40
_IPV4_PROTOCOL = 9
_SRH = 4


def stamp_filter(port: int) -> str:
    """Admits every header form of a packet to UDP port `port`."""
    return f"ip6 and ({_ipv6('0', port, encapsulations=1)})"


def ipv4_filter(port: int) -> str:
    """Admits packets of IPv4 to UDP port `port`."""
    return f"ip and udp dst port {port}"


def ipv4_in_ipv6_filter(port: int) -> str:
    """Admits packets of IPv6 that carry one of IPv4 to UDP port `port`."""
    kind, at = f"ip6[{_NEXT_HEADER}]", str(_IPV6_LENGTH)
    behind = f"{at} + 8 + 8 * ip6[{at} + 1]"
    arrived = f"ip6[{at} + 2] = {_SRH} and ip6[{at} + 3] = 0"
    return (
        f"ip6 and (({_in_ipv4(kind, at, port)}) or ({kind} = {NH_ROUTING} and {arrived} and "
        f"({_in_ipv4(f'ip6[{at}]', behind, port)})))"
    )


def _in_ipv4(kind: str, at: str, port: int) -> str:
    """An IPv4 header at offset `at`, if `kind` says so, that leads to the port."""
    udp = f"{at} + 4 * (ip6[{at}] & 15)"
    return (
        f"{kind} = {NH_IPV4} and ip6[{at} + {_IPV4_PROTOCOL}] = {NH_UDP} "
        f"and ip6[{udp} + 2 : 2] = {port}"
    )


def _ipv6(at: str, port: int, encapsulations: int) -> str:
    """An IPv6 header at offset `at` that leads to the port."""
    return _header(f"ip6[{at} + {_NEXT_HEADER}]", f"{at} + {_IPV6_LENGTH}", port, encapsulations)


def _header(kind: str, at: str, port: int, encapsulations: int, srhs: int = 1) -> str:
    """A header of the kind that `kind` reads, at offset `at`."""
    forms = [
        f"{kind} = {NH_UDP} and ip6[{at} + 2 : 2] = {port}",
        f"{kind} = {NH_HOP_BY_HOP}",
        f"{kind} = {NH_DESTINATION}",
    ]
    if srhs:
        behind = _header(
            f"ip6[{at}]", f"{at} + 8 + 8 * ip6[{at} + 1]", port, encapsulations, srhs - 1
        )
        arrived = f"ip6[{at} + 2] = {_SRH} and ip6[{at} + 3] = 0"
        forms.append(f"{kind} = {NH_ROUTING} and {arrived} and ({behind})")
    if encapsulations:
        forms.append(f"{kind} = {NH_IPV6} and ({_ipv6(at, port, encapsulations - 1)})")
    return " or ".join(f"({form})" for form in forms)
