"""The `scapy` engine: the shared event loop and roles, on Scapy's sockets.

Importing this module does not import Scapy: the plugin asks for the capabilities
in a process that never carries a packet.
"""

from __future__ import annotations

import ctypes.util
import importlib.util

from dataplane.clock import Clock
from dataplane.config import IPAddress
from dataplane.engines.base import EngineContext, Role
from dataplane.engines.common.engine import LoopEngine
from dataplane.engines.common.transport import Transport
from dataplane.engines.scapy.capabilities import CAPABILITIES as CAPABILITIES
from dataplane.engines.scapy.capabilities import NAME

if importlib.util.find_spec("scapy") is None:
    raise ImportError("the Python package scapy is not installed")
if ctypes.util.find_library("pcap") is None:
    raise ImportError("libpcap, which compiles BPF filters for Scapy, is not installed")


def create(context: EngineContext) -> LoopEngine:
    from dataplane.engines.scapy.transport import ScapyTransport

    clock = Clock()

    def open_transport(role: Role, address: IPAddress, port: int) -> Transport:
        return ScapyTransport(role, address, port, clock)

    return LoopEngine(NAME, CAPABILITIES, context, clock, open_transport)
