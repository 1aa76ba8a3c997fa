"""What sysrepo's errors mean to an operator, and the model that the daemon needs."""

from __future__ import annotations

import pytest
import sysrepo

from sysrepo_plugin.datastore import MODEL
from sysrepo_plugin.datastore import explained as stampd_explains
from tools.netconf_server.daemon import explained as netconfd_explains
from tools.netconf_server.native_errors import ErrorItem, NativeError, SrCode
from tools.repository import STAMP_MODULE, find_module

NO_ACCESS = "no access to sysrepo's repository: be its owner, as a rule root "


@pytest.mark.parametrize(
    "error",
    [
        sysrepo.SysrepoSysError("sr_connect failed"),
        sysrepo.SysrepoUnauthorizedError('Write permission "srv6-stamp" check failed.'),
    ],
)
def test_no_access(error: sysrepo.SysrepoError) -> None:
    assert stampd_explains(error) == f"{NO_ACCESS}({error})"
    assert netconfd_explains(error) == f"{NO_ACCESS}({error})"


def test_no_access_to_what_the_netconf_server_needs() -> None:
    items = [ErrorItem(SrCode.UNAUTHORIZED, "Subscribing failed.")]
    error = NativeError("sysrepo", SrCode.UNAUTHORIZED, items)
    assert netconfd_explains(error) == f"{NO_ACCESS}(Subscribing failed.)"


def test_other_errors_have_sysrepos_words() -> None:
    error = sysrepo.SysrepoNotFoundError("no module")
    assert stampd_explains(error) == str(error)
    assert netconfd_explains(error) == str(error)


def test_the_model_that_the_daemon_needs_is_the_one_that_is_installed() -> None:
    assert find_module(STAMP_MODULE) == MODEL
