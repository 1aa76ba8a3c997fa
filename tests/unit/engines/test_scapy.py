"""What the scapy engine makes of packets, without a network."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from scapy.arch.common import compile_filter
from scapy.data import DLT_RAW, SO_ATTACH_FILTER
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrSegmentRouting,
)
from scapy.layers.l2 import Ether
from scapy.libs.structures import sock_fprog
from scapy.packet import Packet
from scapy.utils import rdpcap

from dataplane.engines import registry
from dataplane.engines.base import EngineError
from dataplane.engines.scapy.filters import ipv4_filter, ipv4_in_ipv6_filter, stamp_filter
from dataplane.engines.scapy.layers import SessionReflectorTest, SessionSenderTest
from dataplane.engines.scapy.port_holder import hold
from dataplane.stamp.packet import ReflectorPacket, SenderPacket
from dataplane.stamp.timestamp import ErrorEstimate, TimestampFormat, encode_timestamp

VECTORS = Path(__file__).parents[2] / "vectors"
PORT = 862
HERE, SID = "fd00::2", "fc00::2"


def test_captured_packets_are_built_again() -> None:
    """From the fields that a person would write down to the very bytes of the capture."""
    for name, layer in (("sender", SessionSenderTest), ("reflector", SessionReflectorTest)):
        (frame,) = rdpcap(str(VECTORS / f"stamp-srh-{name}.pcap"))
        udp = frame[UDP]
        test = layer(bytes(udp.payload))
        fresh = layer(**test.fields)
        codec = SenderPacket if name == "sender" else ReflectorPacket
        decoded = codec.decode(bytes(udp.payload))
        assert (test.seq, test.ts, test.ssid) == (
            decoded.sequence,
            decoded.timestamp,
            decoded.ssid,
        )
        srh = frame[IPv6ExtHdrSegmentRouting]
        again = (
            Ether(src=frame.src, dst=frame.dst)
            / IPv6(**{**frame[IPv6].fields, "plen": None})
            / IPv6ExtHdrSegmentRouting(addresses=srh.addresses, segleft=srh.segleft)
            / UDP(sport=udp.sport, dport=udp.dport)
            / fresh
        )
        assert bytes(again) == bytes(frame)


def test_a_timestamp_is_shown_as_its_time() -> None:
    time_ns = 1_795_528_000_123_456_789
    for fmt in TimestampFormat:
        packet = SenderPacket(
            1, encode_timestamp(time_ns, fmt), ErrorEstimate(True, fmt, 0, 1), ssid=7
        )
        shown = repr(SessionSenderTest(packet.encode()))
        assert f"ts=1795528000.123456789 ({fmt.value})" in shown


def stamp() -> Packet:
    return UDP(sport=49862, dport=PORT) / SessionSenderTest()


def srh(left: int = 0, segments: int = 2) -> Packet:
    return IPv6ExtHdrSegmentRouting(
        addresses=[HERE] * segments, segleft=left, lastentry=segments - 1
    )


ADMITTED = {
    "no SRH": IPv6(dst=HERE) / stamp(),
    "SRH": IPv6(dst=HERE) / srh() / stamp(),
    "SRH of one segment": IPv6(dst=HERE) / srh(segments=1) / stamp(),
    "long SRH": IPv6(dst=HERE) / srh(segments=16) / stamp(),
    "encapsulated": IPv6(dst=SID) / srh() / IPv6(dst=HERE) / stamp(),
    "encapsulated, popped": IPv6(dst=SID) / IPv6(dst=HERE) / stamp(),
    "encapsulated, inner SRH": IPv6(dst=SID) / IPv6(dst=HERE) / srh() / stamp(),
    "both with SRH": IPv6(dst=SID) / srh() / IPv6(dst=HERE) / srh() / stamp(),
    "options": IPv6(dst=HERE) / IPv6ExtHdrHopByHop() / stamp(),
    "options behind an SRH": IPv6(dst=HERE) / srh() / IPv6ExtHdrDestOpt() / stamp(),
}
REFUSED = {
    "another port": IPv6(dst=HERE) / UDP(dport=863) / b"",
    "from the port": IPv6(dst=HERE) / UDP(sport=PORT, dport=863) / b"",
    "another port behind an SRH": IPv6(dst=HERE) / srh() / UDP(dport=863) / b"",
    "TCP": IPv6(dst=HERE, nh=6) / bytes(40),
    "segments left": IPv6(dst=HERE) / srh(left=1) / stamp(),
    "segments left, encapsulated": IPv6(dst=SID) / srh(left=1) / IPv6(dst=HERE) / stamp(),
    "a fragment": IPv6(dst=HERE) / IPv6ExtHdrFragment() / stamp(),
    "data, encapsulated": IPv6(dst=SID) / srh() / IPv6(dst=HERE) / UDP(dport=80),
    "cut off": IPv6(dst=HERE),
}


def old(**fields: object) -> Packet:
    return IP(dst="192.0.2.2", **fields)


ADMITTED_IPV4 = {
    "plain": old() / stamp(),
    "options": old(options=[IPOption_Router_Alert()]) / stamp(),
}
REFUSED_IPV4 = {
    "another port": old() / UDP(dport=863),
    "from the port": old() / UDP(sport=PORT, dport=863),
    "TCP": old(proto=6) / bytes(40),
    "a later fragment": old(frag=3) / stamp(),
    "IPv6": IPv6(dst=HERE) / stamp(),
}
ADMITTED_IN_IPV6 = {
    "encapsulated": IPv6(dst=SID) / srh() / old() / stamp(),
    "encapsulated, popped": IPv6(dst=SID) / old() / stamp(),
    "encapsulated, long SRH": IPv6(dst=SID) / srh(segments=16) / old() / stamp(),
    "encapsulated, options": IPv6(dst=SID) / old(options=[IPOption_Router_Alert()]) / stamp(),
}
REFUSED_IN_IPV6 = {
    "segments left": IPv6(dst=SID) / srh(left=1) / old() / stamp(),
    "another port": IPv6(dst=SID) / srh() / old() / UDP(dport=863),
    "TCP": IPv6(dst=SID) / old(proto=6) / bytes(40),
    "IPv6": IPv6(dst=SID) / IPv6(dst=HERE) / stamp(),
    "not encapsulated": IPv6(dst=HERE) / stamp(),
    "cut off": IPv6(dst=SID) / old(),
}


def filtering(bpf_filter: str) -> Callable[[Packet], bool]:
    """Runs a filter in the kernel, on a socket of the local domain."""
    into, out = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    program = compile_filter(bpf_filter, linktype=DLT_RAW)
    code = sock_fprog(program.bf_len, program.bf_insns)
    out.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(code))
    out.setblocking(False)

    def run(packet: Packet) -> bool:
        data = bytes(packet)
        into.send(data)
        try:
            return out.recv(1 << 16) == data
        except BlockingIOError:
            return False

    return run


@pytest.fixture(scope="module")
def admits() -> Callable[[Packet], bool]:
    return filtering(stamp_filter(PORT))


@pytest.mark.parametrize(
    ("bpf_filter", "admitted", "refused"),
    [
        (ipv4_filter(PORT), ADMITTED_IPV4, REFUSED_IPV4),
        (ipv4_in_ipv6_filter(PORT), ADMITTED_IN_IPV6, REFUSED_IN_IPV6),
    ],
    ids=["IPv4", "IPv4 in IPv6"],
)
def test_the_filters_of_ipv4(
    bpf_filter: str, admitted: dict[str, Packet], refused: dict[str, Packet]
) -> None:
    admits = filtering(bpf_filter)
    assert [form for form in admitted if not admits(admitted[form])] == []
    assert [form for form in refused if admits(refused[form])] == []


@pytest.mark.parametrize("form", ADMITTED)
def test_the_filter_admits_every_header_form(admits: Callable[[Packet], bool], form: str) -> None:
    assert admits(ADMITTED[form])


@pytest.mark.parametrize("form", REFUSED)
def test_the_filter_spares_the_rest(admits: Callable[[Packet], bool], form: str) -> None:
    assert not admits(REFUSED[form])


def test_a_held_port_is_taken_and_never_readable() -> None:
    sock = hold(IPv6Address("::"), 49_310)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other:
        with pytest.raises(OSError, match="Address already in use"):
            other.bind(("::1", 49_310))
        other.sendto(b"unread", ("::1", 49_310))
        other.settimeout(0.2)
        other.connect(("::1", 49_310))
        other.send(b"unread")
        with pytest.raises(TimeoutError):
            other.recv(1)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    sock.close()


def test_capabilities_come_without_scapy() -> None:
    program = (
        "import sys; from dataplane.engines import registry;"
        "able = registry.capabilities('scapy'); assert able.min_interval_us == 10_000;"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'scapy'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_importing_the_engine_says_nothing_and_reads_no_routes() -> None:
    program = (
        "import dataplane.engines.scapy.transport;"
        "from scapy.config import conf;"
        "print(len(conf.route.routes), len(conf.route6.routes))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0 0\n", "")


@pytest.mark.parametrize(
    ("lacks", "reason"),
    [
        ("importlib.util.find_spec", "the Python package scapy is not installed"),
        (
            "ctypes.util.find_library",
            "libpcap, which compiles BPF filters for Scapy, is not installed",
        ),
    ],
)
def test_where_scapy_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, lacks: str, reason: str
) -> None:
    monkeypatch.delitem(sys.modules, registry.ENGINES["scapy"], raising=False)
    monkeypatch.setattr(lacks, lambda _name: None)
    with pytest.raises(EngineError) as refusal:
        registry.capabilities("scapy")
    assert str(refusal.value) == f"engine scapy cannot be used here: {reason}"
