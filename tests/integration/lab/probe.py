"""A UDP prober and echo for tests, run inside a node's namespace; standard library only.

probe.py reflect ADDRESS PORT [SID RETURN]  prints "ready", then echoes until it is killed
probe.py send SOURCE ADDRESS PORT COUNT INTERVAL_US WAIT_MS [SID]  prints one JSON object

A probe is (sequence: u32, T1: u64); its echo adds (T2: u64, T3: u64). T2 and the
sender's T4 are kernel receive timestamps, T1 and T3 are read before sending.
"""

import json
import select
import socket
import struct
import sys
import time

SO_TIMESTAMPNS = 35
IPV6_RTHDR = 57
SRH_TYPE = 4
PROBE = struct.Struct("!IQ")
ECHO = struct.Struct("!IQQQ")


def segment_routing_header(sid, final):
    """The value for IPV6_RTHDR: RFC 8754 §2, segments in reverse order."""
    segments = socket.inet_pton(socket.AF_INET6, final) + socket.inet_pton(socket.AF_INET6, sid)
    return struct.pack("!BBBBBBH", 0, len(segments) // 8, SRH_TYPE, 1, 1, 0, 0) + segments


def open_socket(address, port):
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind((address, port))
    return sock


def receive(sock):
    data, ancillary, _, sender = sock.recvmsg(2048, 64)
    seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
    return data, seconds * 1_000_000_000 + nanoseconds, sender


def reflect(address, port, sid=None, final=None):
    sock = open_socket(address, int(port))
    if sid:
        header = segment_routing_header(sid, final)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, header)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        data, t2, sender = receive(sock)
        sequence, t1 = PROBE.unpack(data[: PROBE.size])
        sock.sendto(ECHO.pack(sequence, t1, t2, time.time_ns()), sender)


def send(source, address, port, count, interval_us, wait_ms, sid=None):
    sock = open_socket(source, 0)
    if sid:
        header = segment_routing_header(sid, address)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, header)
    echoes = []
    due = time.monotonic()
    end = due + int(count) * int(interval_us) / 1e6 + int(wait_ms) / 1e3
    sequence = 0
    while (now := time.monotonic()) < end:
        if sequence < int(count) and now >= due:
            sock.sendto(PROBE.pack(sequence, time.time_ns()), (address, int(port)))
            sequence += 1
            due += int(interval_us) / 1e6
            continue
        timeout = min(end, due if sequence < int(count) else end) - now
        if select.select([sock], [], [], max(0.0, timeout))[0]:
            data, t4, _ = receive(sock)
            echoes.append((*ECHO.unpack(data), t4))
    json.dump({"sent": sequence, "echoes": echoes}, sys.stdout)


if __name__ == "__main__":
    {"reflect": reflect, "send": send}[sys.argv[1]](*sys.argv[2:])
