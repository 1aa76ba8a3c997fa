"""stampd on a sysrepo repository that was made by an earlier version."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.plugin.element import eventually, run
from tools.repository import STAMP_FEATURES, STAMP_MODULE, Repository, find_module

pytestmark = pytest.mark.integration

CONFIGURATION = '{"srv6-stamp:stamp": {"session-reflector": {}}}'


def without(text: str, statement: str) -> str:
    """YANG without the first of what begins with `statement`."""
    shorter, count = re.subn(rf"\n( *){statement} .*?\n\1}}", "", text, count=1, flags=re.DOTALL)
    assert count == 1
    return shorter


@pytest.fixture
def outdated(tmp_path: Path) -> Iterator[Repository]:
    """Its model has neither the latest revision nor the leaf `rate-limit`."""
    text = without(without(find_module(STAMP_MODULE).read_text(), "revision"), "leaf rate-limit")
    latest = re.search(r"revision ([\d-]+)", text)
    assert latest is not None
    model = tmp_path / f"{STAMP_MODULE}@{latest[1]}.yang"
    model.write_text(text)
    repository = Repository(tmp_path / "repository", f"stampd-old-{os.getpid():x}")
    try:
        repository.path.mkdir()
        repository.install(model, STAMP_FEATURES)
        yield repository
    finally:
        repository.destroy()


def test_an_earlier_revision_is_named_with_the_command_that_updates_it(
    outdated: Repository, tmp_path: Path
) -> None:
    environment = os.environ | outdated.environment()
    edit = ("sysrepocfg", "--edit", "--datastore=running", "--format=json")
    run(*edit, input=CONFIGURATION, env=environment)
    ready = tmp_path / "ready"
    stampd = [sys.executable, "-m", "sysrepo_plugin.stampd", "--ready-file", str(ready)]
    stampd += ["--state-dir", str(tmp_path / "state")]

    refused = subprocess.run(
        stampd, env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert refused.returncode == 1
    said = re.fullmatch(
        r".* ERROR: YANG module srv6-stamp is installed in revision (\S+), (\S+) is needed: (.+)\n",
        refused.stderr,
    )
    assert said is not None, refused.stderr
    installed, needed, command = said.groups()
    assert installed < needed
    assert find_module(STAMP_MODULE).name == f"{STAMP_MODULE}@{needed}.yang"

    run(*shlex.split(command), env=environment)
    daemon = subprocess.Popen(stampd, env=environment)
    try:
        eventually(ready.exists, "start of stampd")
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
    finally:
        daemon.kill()
        daemon.wait()
