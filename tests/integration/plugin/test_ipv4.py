"""IPv4 through stampd: what is measured, and what is refused."""

from __future__ import annotations

import pytest

from tests.integration.plugin.element import (
    REFLECTOR,
    SENDER,
    ClientError,
    Element,
    Tree,
    eventually,
    run,
)
from tests.integration.plugin.test_stampd import session, sessions

pytestmark = pytest.mark.integration

OURS, THEIRS = "192.0.2.1", "192.0.2.2"
PATH: Tree = {"path": [{"name": "p", "segment": [{"index": 1, "sid": "fc00:e::1"}]}]}


@pytest.fixture
def over_ipv4(sender: Element, reflector: Element) -> tuple[Element, Element]:
    """Both elements, with addresses of IPv4, and a session of SSID 4 that is served."""
    for element, address in ((sender, OURS), (reflector, THEIRS)):
        run("ip", "-n", element.namespace, "address", "add", f"{address}/24", "dev", "wan0")
    served = {"ssid": 4, "sender-address": OURS, "reflector-mode": "stateful"}
    reflector.edit({"session-reflector": {"session": [served]}})
    return sender, reflector


def old(ssid: int = 4, **values: object) -> Tree:
    return session(ssid, reflector_address=THEIRS, source_address=OURS, **values)


def test_a_session_over_ipv4_is_measured(over_ipv4: tuple[Element, Element]) -> None:
    """Beside one over IPv6, by the same Session-Reflector."""
    sender, reflector = over_ipv4
    sender.edit(sessions(old(), session(1)))
    sender.await_received(4, 20)
    sender.await_received(1, 1)
    state = sender.session(4)
    assert (state["oper-state"], state["active-engine"]) == ("running", "userspace")
    assert "last-error" not in state
    for record in state["measurement"]:
        t1, t2, t3, t4 = (int(record[name]) for name in ("t1", "t2", "t3", "t4"))
        assert t1 < t2 < t3 < t4
        assert record["session-sender-ttl"] == 255

    def served() -> Tree:
        found: list[Tree] = reflector.state(REFLECTOR)["session-reflector"]["session"]
        return next(each for each in found if each["sender-address"] == OURS)

    eventually(lambda: int(served()["counters"]["reflected"]) >= 20, "the Session-Reflector counts")


def test_the_driver_answers_ipv4(over_ipv4: tuple[Element, Element]) -> None:
    sender, reflector = over_ipv4
    reflector.edit({"session-reflector": {"engine": "xdp", "interface": ["wan0"]}})
    sender.edit(sessions(old(interval="20000")))
    sender.await_received(4, 20)

    def driver() -> Tree:
        state: Tree = reflector.state(REFLECTOR)["session-reflector"]["driver"]
        return state

    eventually(lambda: int(driver()["answered"]) >= 20, "the driver answers")


@pytest.mark.parametrize(
    ("who", "change", "text"),
    [
        pytest.param(
            "sender",
            PATH | sessions(old(5, path="p")),
            "a path of SRv6 segments needs an IPv6 reflector-address",
            id="a path",
        ),
        pytest.param(
            "reflector",
            PATH
            | {
                "session-reflector": {
                    "session": [{"ssid": 5, "sender-address": OURS, "return-path": "p"}]
                }
            },
            f"{REFLECTOR}/session[ssid='5'][sender-address='{OURS}']/return-path: packets to "
            f"{OURS} cannot take a path of SRv6 segments: it is not IPv6",
            id="a return path",
        ),
        pytest.param(
            "sender",
            sessions(session(5, reflector_address=THEIRS)),
            f"{SENDER}/session[ssid='5']/reflector-address: source address fd00:a::1 and "
            f"reflector address {THEIRS} differ in family",
            id="a source of the role",
        ),
        pytest.param(
            "sender",
            sessions(session(5, reflector_address=f"::ffff:{THEIRS}")),
            f"{SENDER}/session[ssid='5']/reflector-address: the reflector address "
            "::ffff:c000:202 is an IPv4 address written as IPv6",
            id="a mapped address",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    over_ipv4: tuple[Element, Element], who: str, change: Tree, text: str
) -> None:
    """And everything is as it was: the session that runs goes on."""
    sender, reflector = over_ipv4
    sender.edit(sessions(old()))
    sender.await_received(4, 5)
    before = [element.state("/srv6-stamp:stamp") for element in over_ipv4]
    element = sender if who == "sender" else reflector
    with pytest.raises(ClientError) as refusal:
        element.edit(change)
    assert text in str(refusal.value)
    assert [names(element.state("/srv6-stamp:stamp")) for element in over_ipv4] == [
        names(state) for state in before
    ]
    sender.await_received(4, 5)
    (running,) = before[0]["session-sender"]["session"]
    assert sender.session(4)["last-state-change"] == running["last-state-change"]


def names(state: Tree) -> list[object]:
    """What is configured, as far as the refused edits would have changed it."""
    found: list[object] = [state.get("path")]
    for role in ("session-sender", "session-reflector"):
        listed = state.get(role, {}).get("session", [])
        found.append(sorted((each["ssid"], each.get("sender-address")) for each in listed))
    return found
