"""Up, down, and everything that may go wrong between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.integration.lab.conftest import name_of, probe, remains
from tools.lab import bringup, kernel, processes, state
from tools.lab.cli import main
from tools.lab.errors import LabBusyError, LabError, LabExistsError, NoSuchLabError
from tools.lab.lab import Lab
from tools.lab.takedown import take_down

pytestmark = pytest.mark.integration


def test_down_leaves_nothing(lab_name: str) -> None:
    lab = Lab.start(name=lab_name, daemons=False)
    assert remains(lab)
    lab.down()
    assert remains(lab) == []


def test_the_block_cleans_up_after_an_exception(lab_name: str) -> None:
    with pytest.raises(ZeroDivisionError), Lab.start(name=lab_name, daemons=False) as lab:
        raise ZeroDivisionError
    assert remains(lab) == []


def test_down_twice_is_fine(lab_name: str) -> None:
    Lab.start(name=lab_name, daemons=False)
    assert take_down(lab_name)
    assert not take_down(lab_name)


def test_up_twice_is_refused_and_harms_nothing(lab_name: str) -> None:
    lab = Lab.start(name=lab_name, daemons=False)
    with pytest.raises(LabExistsError) as caught:
        Lab.start(name=lab_name, daemons=False)
    assert str(caught.value) == (
        f"lab {lab_name!r} already exists: see `stamp-lab status --name {lab_name}`, "
        f"or remove it with `stamp-lab down --name {lab_name}`"
    )
    assert lab.status()["healthy"]


def test_down_after_the_delay_line_was_killed(lab_name: str) -> None:
    lab = Lab.start(name=lab_name, daemons=False)
    line = lab.process("delay-line")
    os.kill(line.pid, signal.SIGKILL)
    while processes.is_alive(line):
        time.sleep(0.01)
    with pytest.raises(LabError, match=r"^the delay line is dead$"):
        lab.line_status()
    status = lab.status()
    assert not status["healthy"]
    assert not status["delay_line"]["alive"]
    lab.down()
    assert remains(lab) == []


def test_down_ends_what_was_started_inside(lab_name: str) -> None:
    lab = Lab.start(name=lab_name, daemons=False)
    # One that ignores SIGTERM, and one that left its namespace's processes behind.
    stubborn = lab.popen(
        "edge1",
        ["sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"],
        stdout=subprocess.PIPE,
    )
    outside = lab.popen("edge1", ["nsenter", f"--net=/proc/{os.getpid()}/ns/net", "sleep", "100"])
    assert stubborn.stdout.readline() == b"\n"
    lab.down()
    assert stubborn.wait(5) == -signal.SIGKILL
    assert outside.wait(5) == -signal.SIGTERM
    assert remains(lab) == []


@pytest.mark.parametrize("step", ["create_veths", "configure_node", "bring_up_wire"])
def test_a_failing_up_removes_what_it_made(
    lab_name: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LabError("out of luck")

    monkeypatch.setattr(kernel, step, fail)
    with pytest.raises(LabError, match=r"^out of luck$"):
        Lab.start(name=lab_name, daemons=False)
    assert not [n for n in kernel.existing_namespaces() if n.startswith(f"stamp-{lab_name}-")]
    assert not (state.RUN_FOLDER / lab_name).exists()


@pytest.mark.parametrize("step", ["create_veths", "_delay_line"])
def test_down_after_up_was_killed_in_the_middle(lab_name: str, step: str) -> None:
    owner = "kernel" if step == "create_veths" else "bringup.BringUp"
    script = (
        "import os, signal\n"
        "from tools.lab import bringup, kernel\n"
        "from tools.lab.lab import Lab\n"
        f"original = {owner}.{step}\n"
        "def then_die(*arguments):\n"
        "    original(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{owner}.{step} = then_die\n"
        f"Lab.start(name={lab_name!r}, daemons=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGKILL
    lab = Lab.attach(lab_name)
    assert not lab.state.complete
    assert remains(lab)
    assert take_down(lab_name)
    assert remains(lab) == []


def test_a_recycled_process_id_is_not_killed(lab_name: str) -> None:
    lab = Lab.start(name=lab_name, daemons=False)
    line = lab.process("delay-line")
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        # The identity file now names a living process with another start time.
        record = lab.state.processes[0]
        text = record.identity_file.read_text(encoding="ascii")
        record.identity_file.write_text(text.replace(str(line.pid), str(bystander.pid), 1))
        lab.down()
        assert bystander.poll() is None
        assert not processes.is_alive(line)
    finally:
        bystander.kill()
        bystander.wait()


def test_a_foreign_namespace_is_left_alone(lab_name: str) -> None:
    foreign = f"stamp-{lab_name}-core1"
    subprocess.run(["ip", "netns", "add", foreign], check=True)
    try:
        with pytest.raises(LabError) as caught:
            Lab.start(name=lab_name, daemons=False)
        assert str(caught.value) == (
            f"namespace {foreign} exists but belongs to no lab: `ip netns delete {foreign}`"
        )
        assert foreign in kernel.existing_namespaces()
    finally:
        subprocess.run(["ip", "netns", "delete", foreign], check=True)


def test_two_labs_coexist(lab_name: str) -> None:
    first = Lab.start(name=lab_name, daemons=False)
    with Lab.start(name=name_of("two"), daemons=False) as second:
        assert len(probe(second, "edge1", "edge2", count=5)) == 5
    assert remains(second) == []
    assert len(probe(first, "edge1", "edge2", count=5)) == 5


def test_down_during_another_down_is_refused(lab_name: str) -> None:
    Lab.start(name=lab_name, daemons=False)
    with state.locked(lab_name), pytest.raises(LabBusyError) as caught:
        take_down(lab_name)
    assert str(caught.value) == f"another up or down of lab {lab_name!r} is at work"


def test_unknown_labs_and_nodes(lab_name: str) -> None:
    with pytest.raises(NoSuchLabError, match=f"^no lab '{lab_name}' is up$"):
        Lab.attach(lab_name)
    lab = Lab.start(name=lab_name, daemons=False)
    with pytest.raises(NoSuchLabError) as caught:
        lab.exec("edge9", ["true"])
    assert str(caught.value) == (
        f"lab {lab_name!r} has no node 'edge9' (nodes: edge1, edge2, core1, core2)"
    )
    with pytest.raises(LabError, match=r"^edge1 runs no NETCONF server$"):
        _ = lab.nodes["edge1"].netconf


def test_a_process_that_dies_early_fails_up_with_its_last_words(
    lab_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit('no wire to be found')"]
    monkeypatch.setattr(bringup.daemons, "delay_line_command", lambda *_: broken)
    with pytest.raises(LabError) as caught:
        Lab.start(name=lab_name, daemons=False)
    assert str(caught.value) == "delay-line ended before it was ready: no wire to be found"
    assert not (state.RUN_FOLDER / lab_name).exists()


def test_the_command_line(lab_name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--name", lab_name]) == 5
    assert main(["up", "--no-daemons", "--name", lab_name]) == 0
    assert f"lab {lab_name} is up" in capfd.readouterr().out
    assert main(["up", "--no-daemons", "--name", lab_name]) == 4
    capfd.readouterr()
    assert main(["status", "--json", "--name", lab_name]) == 0
    status = json.loads(capfd.readouterr().out)
    assert [node["name"] for node in status["nodes"]] == ["edge1", "edge2", "core1", "core2"]
    assert status["links"][2]["forward"]["loss"] == 0.02
    assert main(["status", "--name", lab_name]) == 0
    table = capfd.readouterr().out
    assert "20ms, 2% lost" in table
    assert "healthy" in table
    assert main(["exec", "--name", lab_name, "edge1", "--", "sh", "-c", "exit 42"]) == 42
    assert main(["exec", "--name", lab_name, "edge9", "--", "true"]) == 125
    assert main(["down", "--name", lab_name]) == 0
    assert main(["down", "--name", lab_name]) == 0
    assert "nothing to do" in capfd.readouterr().out


def test_a_wrong_topology_has_its_own_exit_code(
    tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path_factory.mktemp("topology") / "wrong.yaml"
    file.write_text("nodes: {}\n", encoding="ascii")
    assert main(["up", str(file)]) == 3
    assert capfd.readouterr().err == "stamp-lab: links: missing\n"
