"""What is edited over NETCONF outlives a restart of the machine (RFC 6241 section 8.7)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conformance.conftest import Lab
from tests.conformance.test_data import NC_NS, edit, fail, top

pytestmark = pytest.mark.integration

ACM = "urn:ietf:params:xml:ns:yang:ietf-netconf-acm"


def running_after_a_reboot(lab: Lab) -> str:
    """End all that is connected to the repository, and what sysrepo keeps in memory with it."""
    for process in (lab.daemon, lab.provider):
        process.terminate()
        process.wait(20)
    for path in Path("/dev/shm").glob(f"{lab.env['SYSREPO_SHM_PREFIX']}*"):
        path.unlink()
    return subprocess.run(
        ["sysrepocfg", "--export", "--datastore=running", "--format=xml"],
        env=lab.env,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_an_edit_outlives_a_reboot(lab: Lab) -> None:
    nacm = f'<nacm xmlns="{ACM}"><groups><group><name>operators</name></group></groups></nacm>'
    with lab.connect() as session:
        edit(session, "<mtu>1300</mtu><lower>3</lower>")
        edit(session, "<mtu>1400</mtu>")
        edit(session, '<lower nc:operation="delete"/>')
        edit(session, "<mtu>1500</mtu>", test_option="test-only")
        fail(session, "<mtu>666</mtu>")
        session.edit_config(target="running", config=f'<config xmlns="{NC_NS}">{nacm}</config>')
    kept = running_after_a_reboot(lab)
    assert "<mtu>1400</mtu>" in kept
    assert "<lower>" not in kept
    assert "<name>operators</name>" in kept


def test_an_edit_that_cannot_be_kept_is_told(lab: Lab) -> None:
    with lab.connect() as session:
        with lab.locked("startup"):
            error = fail(session, "<mtu>1400</mtu>")
        assert error.tag == "operation-failed"
        assert error.message.startswith(
            "the edit is in force, but cannot be kept for the next boot: "
        )
        assert top(session) == {"mtu": "1400"}
        edit(session, "<lower>3</lower>")
    kept = running_after_a_reboot(lab)
    assert "<mtu>1400</mtu>" in kept
    assert "<lower>3</lower>" in kept
