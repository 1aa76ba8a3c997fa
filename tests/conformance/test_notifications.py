"""Event notifications (RFC 5277) and who may read them (RFC 8341 section 3.4.6)."""

from __future__ import annotations

import contextlib
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from lxml import etree
from ncclient.manager import Manager
from ncclient.operations import RPCError

from tests.conformance.conftest import Lab, wait_until
from tests.conformance.raw_client import NC, RawClient, as_user, raw_client
from tests.conformance.test_control import MONITORING, NOBODY, failure_of
from tests.conformance.test_data import TEST_NS, T, edit, top
from tools.netconf_server.messages import NOTIFICATION_NS
from tools.netconf_server.notifications import EVENTS_NS

pytestmark = pytest.mark.integration

N = {"n": NOTIFICATION_NS}
WAIT_S = 20
SUBSCRIBE = f'<create-subscription xmlns="{NOTIFICATION_NS}">{{}}</create-subscription>'


def event_of(message: etree._Element) -> etree._Element:
    """What follows ``<eventTime>``."""
    assert etree.QName(message).text == f"{{{NOTIFICATION_NS}}}notification"
    assert etree.QName(message[0]).text == f"{{{NOTIFICATION_NS}}}eventTime"
    assert len(message) == 2
    return message[1]


def name_of(message: etree._Element) -> str:
    return etree.QName(event_of(message)).localname


def number_of(message: etree._Element) -> int:
    return int(event_of(message).findtext("t:number", "-1", T))


def take(session: Manager) -> etree._Element:
    notification = session.take_notification(timeout=WAIT_S)
    assert notification is not None, "no notification"
    return notification.notification_ele


def subscribe(client: RawClient, parameters: str = "") -> None:
    reply = client.rpc(SUBSCRIBE.format(parameters))
    assert reply.find("nc:ok", NC) is not None, etree.tostring(reply)


def receive(client: RawClient) -> etree._Element:
    message = client.receive()
    assert message is not None, "the server closed the session"
    return message


def test_ncclient_takes_notifications(lab: Lab) -> None:
    with lab.connect() as session:
        assert session.create_subscription().ok
        before = datetime.now(UTC)
        lab.notify("alarm 3 5")
        messages = [take(session) for _ in range(3)]
        after = datetime.now(UTC)
        assert [number_of(message) for message in messages] == [0, 1, 2]
        assert event_of(messages[0]).tag == f"{{{TEST_NS}}}alarm"
        assert event_of(messages[0]).findtext("t:text", None, T) == "xxxxx"
        times = [str(message.findtext("n:eventTime", None, N)) for message in messages]
        assert times == sorted(times)
        # sysrepo's time stamp, to the nanosecond.
        assert all(len(text) == len("2026-01-01T00:00:00.123456789Z") for text in times)
        margin = timedelta(microseconds=1)
        assert before - margin <= datetime.fromisoformat(times[0])
        assert datetime.fromisoformat(times[2]) <= after
        assert session.take_notification(block=False) is None
        counter = "/m:netconf-state/m:sessions/m:session/m:out-notifications"
        state = session.get(filter=("xpath", (MONITORING, counter))).data_ele
        assert state.findtext(".//m:out-notifications", None, MONITORING) == "3"


def test_requests_while_notifications_flow(lab: Lab) -> None:
    count = 2000
    with lab.connect() as session:
        # The default stream also tells of the edits (RFC 6470).
        assert session.create_subscription(stream_name="netconf-test").ok
        assert lab.provider.stdin is not None
        assert lab.provider.stdout is not None
        lab.provider.stdin.write(f"alarm {count} 100\n")
        lab.provider.stdin.flush()
        for mtu in range(1000, 1020):
            edit(session, f"<mtu>{mtu}</mtu>")
            assert top(session)["mtu"] == str(mtu)
        assert [number_of(take(session)) for _ in range(count)] == list(range(count))
        assert lab.provider.stdout.readline() == "sent\n"


def test_filters(lab: Lab) -> None:
    with lab.connect() as session:
        edit(session, "<item><name>a</name></item>")
        with lab.connect() as by_subtree, lab.connect() as by_xpath, lab.connect() as one_module:
            alarm = etree.fromstring(f'<alarm xmlns="{TEST_NS}"><number>1</number></alarm>')
            assert by_subtree.create_subscription(filter=("subtree", alarm)).ok
            xpath = "/t:alarm[t:number=2] | /t:top/t:item/t:overload"
            assert by_xpath.create_subscription(filter=("xpath", (T, xpath))).ok
            assert one_module.create_subscription(stream_name="netconf-test").ok
            lab.notify("alarm 3 0")
            lab.notify("overload a")
            assert number_of(take(by_subtree)) == 1
            assert by_subtree.take_notification(timeout=0.2) is None
            assert number_of(take(by_xpath)) == 2
            overload = event_of(take(by_xpath))
            assert overload.tag == f"{{{TEST_NS}}}top"
            assert overload.findtext("t:item/t:name", None, T) == "a"
            assert overload.find("t:item/t:overload", T) is not None
            assert [name_of(take(one_module)) for _ in range(4)] == [*(3 * ["alarm"]), "top"]


REFUSED = [
    ("<stream>nope</stream>", "invalid-value"),
    ("<stream>ietf-netconf</stream>", "invalid-value"),
    ('<filter type="xpath" select="///"/>', "invalid-value"),
    ('<filter type="xpath" select="/u:x" xmlns:u="urn:unknown"/>', "invalid-value"),
    ('<filter type="xpath"/>', "missing-attribute"),
    ("<filter/>", "invalid-value"),
    (f'<filter><top xmlns="{TEST_NS}"><mtu/></top></filter>', "invalid-value"),
    ("<stopTime>2036-01-01T00:00:00Z</stopTime>", "missing-element"),
    ("<startTime>2099-01-01T00:00:00Z</startTime>", "bad-element"),
    ("<startTime>yesterday</startTime>", "bad-element"),
    ("<startTime>2020-01-01T00:00:00</startTime>", "bad-element"),
    (
        "<startTime>2020-01-01T00:00:00Z</startTime><stopTime>2019-01-01T00:00:00Z</stopTime>",
        "bad-element",
    ),
    ("<startTime>2020-01-01T00:00:00Z</startTime>", "operation-failed"),
    ("<begin/>", "unknown-element"),
]


def test_subscriptions_that_are_refused(lab: Lab) -> None:
    with raw_client(lab.socket) as client:
        client.hello()
        tags = [failure_of(client.rpc(SUBSCRIBE.format(text)))["tag"] for text, _ in REFUSED]
        assert tags == [tag for _, tag in REFUSED]
        subscribe(client)
        lab.notify("alarm 1 0")
        assert name_of(receive(client)) == "alarm"


def test_one_subscription_for_a_session(lab: Lab) -> None:
    with lab.connect() as session:
        assert session.create_subscription().ok
        with pytest.raises(RPCError) as failure:
            session.create_subscription()
        assert failure.value.tag == "operation-failed"
        assert failure.value.message == "the session has a subscription already"
        lab.notify("alarm 1 0")
        assert number_of(take(session)) == 0
        assert session.take_notification(timeout=0.2) is None


def load_nacm(lab: Lab, rules: str) -> None:
    path = lab.folder / "nacm.xml"
    path.write_text(
        '<nacm xmlns="urn:ietf:params:xml:ns:yang:ietf-netconf-acm"><rule-list><name>all</name>'
        f"<group>*</group>{rules}</rule-list></nacm>"
    )
    subprocess.run(
        ["sysrepocfg", f"--edit={path}", "-d", "running", "-f", "xml", "-m", "ietf-netconf-acm"],
        env=lab.env,
        check=True,
        capture_output=True,
    )


def rule(name: str, action: str, target: str) -> str:
    return f"<rule><name>{name}</name>{target}<action>{action}</action></rule>"


def test_only_what_the_user_may_read_is_delivered(lab: Lab) -> None:
    notification = (
        "<module-name>netconf-test</module-name><notification-name>{}</notification-name>"
    )
    stream = "<stream>netconf-test</stream>"
    with raw_client(lab.socket) as root:
        root.hello()
        subscribe(root, stream)
        with as_user(NOBODY, NOBODY):
            nobody = RawClient(lab.socket)
        nobody.hello()
        subscribe(nobody, stream)
        lab.notify("secret")
        lab.notify("alarm 1 0")
        assert [name_of(receive(root)) for _ in range(2)] == ["secret", "alarm"]
        assert name_of(receive(nobody)) == "alarm"
        load_nacm(
            lab,
            rule("a", "deny", notification.format("alarm"))
            + rule("s", "permit", notification.format("secret")),
        )
        lab.notify("alarm 1 0")
        lab.notify("secret")
        assert [name_of(receive(root)) for _ in range(2)] == ["alarm", "secret"]
        assert name_of(receive(nobody)) == "secret"
        nobody.close()


def test_a_subscription_needs_permission(lab: Lab) -> None:
    target = "<module-name>notifications</module-name><rpc-name>create-subscription</rpc-name>"
    load_nacm(lab, rule("no", "deny", target))
    with as_user(NOBODY, NOBODY):
        nobody = RawClient(lab.socket)
    nobody.hello()
    assert failure_of(nobody.rpc(SUBSCRIBE.format("")))["tag"] == "access-denied"
    nobody.close()
    with lab.connect() as root:
        assert root.create_subscription().ok


LIMIT = 400


@pytest.mark.parametrize(
    "lab", [("--max-queued-notifications", str(LIMIT))], indirect=True, ids=["limit"]
)
def test_a_slow_client(lab: Lab) -> None:
    """It holds nobody up, and what it loses is counted."""
    count, length = 3000, 2000
    with raw_client(lab.socket) as slow, lab.connect() as quick:
        slow.hello()
        subscribe(slow)
        assert quick.create_subscription().ok
        for start in range(0, count, LIMIT):
            burst = min(LIMIT, count - start)
            lab.notify(f"alarm {burst} {length}")
            assert [number_of(take(quick)) for _ in range(burst)] == list(range(burst))
        assert f"{LIMIT} notifications wait for the client, more are dropped" in lab.log()
        received = 0
        slow.sock.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while name_of(receive(slow)) == "alarm":
                received += 1
        lost = count - received
        # The transport holds some, too.
        assert LIMIT < received < count
        assert f"the client has caught up, {lost} notifications dropped so far" in lab.log()
        slow.sock.settimeout(WAIT_S)
        lab.notify("alarm 1 0")
        assert number_of(receive(slow)) == 0
    wait_until(lambda: f": {lost} notifications were dropped" in lab.log(), "the sum")


def subscriptions(lab: Lab) -> int:
    """Notification subscriptions that sysrepo knows of."""
    state = subprocess.run(
        ["sysrepocfg", "-X", "-d", "operational", "-f", "xml", "-m", "sysrepo-monitoring"],
        env=lab.env,
        check=True,
        capture_output=True,
    ).stdout
    return len(etree.fromstring(state).findall(".//{*}notification-sub"))


def resources(lab: Lab) -> tuple[int, int, int, int]:
    process = Path(f"/proc/{lab.daemon.pid}")
    prefix = lab.env["SYSREPO_SHM_PREFIX"]
    return (
        subscriptions(lab),
        len(list((process / "task").iterdir())),
        len(list((process / "fd").iterdir())),
        len([path for path in Path("/dev/shm").glob(f"{prefix}*") if "notif" in path.name]),
    )


@pytest.mark.parametrize("end", ["close-session", "kill-session", "transport", "blocked"])
def test_nothing_is_left_of_a_subscription(lab: Lab, end: str) -> None:
    with raw_client(lab.socket) as other:
        other.hello()
        assert other.rpc("<get><filter/></get>").find("nc:data", NC) is not None
        idle = resources(lab)
        with raw_client(lab.socket) as client:
            client.hello()
            subscribe(client)
            during = resources(lab)
            assert during[0] > idle[0]
            assert during[1] > idle[1]
            if end == "blocked":
                lab.notify("alarm 2000 2000")
            else:
                lab.notify("alarm 1 0")
                assert name_of(receive(client)) == "alarm"
            if end == "close-session":
                assert client.rpc("<close-session/>").find("nc:ok", NC) is not None
                assert client.receive() is None
            elif end == "transport":
                client.close()
            else:
                kill = f"<session-id>{client.session_id}</session-id>"
                reply = other.rpc(f"<kill-session>{kill}</kill-session>")
                assert reply.find("nc:ok", NC) is not None
            wait_until(lambda: resources(lab) == idle, f"{idle} again, not {resources(lab)}")


def test_the_server_ends_with_subscriptions(lab: Lab) -> None:
    with raw_client(lab.socket) as idle, raw_client(lab.socket) as blocked:
        for client in (idle, blocked):
            client.hello()
            subscribe(client)
        assert subscriptions(lab) > 0
        lab.notify("alarm 2000 2000")
        assert receive(idle) is not None
        lab.daemon.terminate()
        assert lab.daemon.wait(WAIT_S) == 0
        assert subscriptions(lab) == 0


def test_replay_where_sysrepo_keeps_notifications(lab: Lab) -> None:
    start = datetime.now(UTC) - timedelta(seconds=1)
    lab.keep_notifications()
    lab.notify("alarm 3 0")
    with lab.connect() as session:
        stop = datetime.now(UTC) + timedelta(seconds=3)
        assert session.create_subscription(
            start_time=start.isoformat(), stop_time=stop.isoformat()
        ).ok
        assert [number_of(take(session)) for _ in range(3)] == [0, 1, 2]
        assert event_of(take(session)).tag == f"{{{EVENTS_NS}}}replayComplete"
        lab.notify("alarm 1 0")
        assert number_of(take(session)) == 0
        with pytest.raises(RPCError):
            session.create_subscription()
        assert event_of(take(session)).tag == f"{{{EVENTS_NS}}}notificationComplete"
        assert datetime.now(UTC) >= stop
        assert session.create_subscription().ok
        lab.notify("alarm 1 0")
        assert number_of(take(session)) == 0
        assert session.take_notification(timeout=0.2) is None


def test_a_replay_of_the_past_ends(lab: Lab) -> None:
    start = datetime.now(UTC) - timedelta(seconds=1)
    lab.keep_notifications()
    lab.notify("alarm 2 0")
    stop = datetime.now(UTC)
    lab.notify("alarm 1 0")
    times = f"<startTime>{start.isoformat()}</startTime><stopTime>{stop.isoformat()}</stopTime>"
    with raw_client(lab.socket) as client:
        client.hello()
        subscribe(client, times)
        names = [name_of(receive(client)) for _ in range(4)]
        assert names == ["alarm", "alarm", "replayComplete", "notificationComplete"]


def test_netconf_console(lab: Lab) -> None:
    arguments = ("--create-subscription", "--sleep=4")
    with subprocess.Popen(
        lab.console_command(*arguments), stdout=subprocess.PIPE, text=True
    ) as console:
        wait_until(lambda: subscriptions(lab) > 0, "the subscription")
        lab.notify("alarm 1 0")
        output, _ = console.communicate(timeout=60)
    assert console.returncode == 0
    assert f'<alarm xmlns="{TEST_NS}">' in output
