"""The daemons of the edges, reached as an operator reaches them: NETCONF over SSH."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from ncclient import manager

from tests.integration.engines.network import eventually
from tests.integration.lab.conftest import name_of, remains
from tools.lab import daemons, processes
from tools.lab.lab import Lab
from tools.lab.takedown import take_down

pytestmark = pytest.mark.integration

ONE_PATH = (
    '<config xmlns="urn:ietf:params:xml:ns:netconf:base:1.0">'
    '<stamp xmlns="urn:x-srv6-stamp:yang:srv6-stamp"><path><name>{}</name>'
    "<segment><index>1</index><sid>fd00:0:101::e</sid></segment></path></stamp></config>"
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """The default topology with daemons, taken down whatever happens."""
    name = name_of("mgmt")
    try:
        yield Lab.start(name=name)
    finally:
        take_down(name)


def connect(lab: Lab, node: str) -> manager.Manager:
    access = lab.nodes[node].netconf
    return manager.connect(
        host=access.host,
        port=access.port,
        username=access.user,
        key_filename=str(access.key_file),
        hostkey_b64=access.host_key_file.read_text(encoding="ascii").split()[1],
        allow_agent=False,
        look_for_keys=False,
        timeout=20,
    )


def sockets_of(pid: int) -> set[str]:
    links = (os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def listening_addresses(pid: int) -> set[tuple[str, int]]:
    """(hexadecimal address, port) of every TCP socket that a process listens on."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets_of(pid):
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found


def test_edges_are_separate_network_elements(lab: Lab) -> None:
    with connect(lab, "edge1") as one, connect(lab, "edge2") as two:
        one.edit_config(target="running", config=ONE_PATH.format("first"))
        two.edit_config(target="running", config=ONE_PATH.format("second"))
        assert "<name>first</name>" in one.get_config("running").data_xml
        assert "<name>second</name>" not in one.get_config("running").data_xml
        assert "<name>second</name>" in two.get_config("running").data_xml
        local = lab.exec("edge1", ["sysrepocfg", "-X", "-m", "srv6-stamp"], check=True).stdout
        assert "<name>first</name>" in local
    lab.down()
    assert remains(lab) == []


def test_down_ends_open_sessions(lab: Lab) -> None:
    session = connect(lab, "edge1")
    try:
        serving = processes.family([lab.process("sshd", "edge1")])
        assert len(serving) > 1
        lab.down()
        assert not [process for process in serving if processes.is_alive(process)]
        assert remains(lab) == []
    finally:
        session._session.close()


def test_management_is_on_loopback_and_stampd_in_the_namespace(lab: Lab) -> None:
    for node in ("edge1", "edge2"):
        sshd, stampd = lab.process("sshd", node), lab.process("stampd", node)
        assert listening_addresses(sshd.pid) == {("0100007F", lab.nodes[node].netconf.port)}
        space = os.stat(f"/run/netns/{lab.nodes[node].namespace}")
        assert os.stat(f"/proc/{stampd.pid}/ns/net").st_ino == space.st_ino
        own = os.stat("/proc/self/ns/net")
        assert os.stat(f"/proc/{sshd.pid}/ns/net").st_ino == own.st_ino
    status = lab.status()
    assert status["healthy"]
    assert set(status["nodes"][0]["processes"]) == {"stampd", "netconfd", "sshd"}
    assert status["nodes"][0]["netconf"]["port"] == lab.nodes["edge1"].netconf.port


def test_down_after_every_daemon_was_killed(lab: Lab) -> None:
    session = connect(lab, "edge1")
    try:
        serving = processes.family([lab.process("sshd", "edge1")])
        for node in ("edge1", "edge2"):
            for name in ("sshd", "stampd", "netconfd"):
                os.kill(lab.process(name, node).pid, signal.SIGKILL)

        def all_ended() -> bool:
            nodes = lab.status()["nodes"]
            return not any(p["alive"] for node in nodes for p in node["processes"].values())

        eventually(all_ended, "every daemon has ended")
        assert not lab.status()["healthy"]
        lab.down()
        assert not [process for process in serving if processes.is_alive(process)]
        assert remains(lab) == []
    finally:
        session._session.close()


def test_a_port_that_somebody_took_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    name = name_of("port")
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        taken, free = squatter.getsockname()[1], daemons.free_port
        offers = iter([taken])
        monkeypatch.setattr(daemons, "free_port", lambda: next(offers, None) or free())
        with Lab.start(name=name) as lab:
            assert taken not in lab.state.ports.values()
            with connect(lab, "edge1") as session:
                assert session.connected


def test_a_process_id_of_another_start_is_not_alive(lab: Lab) -> None:
    stampd = lab.process("stampd", "edge1")
    assert processes.is_alive(stampd)
    assert not processes.is_alive(stampd._replace(start_ticks=stampd.start_ticks + 1))
