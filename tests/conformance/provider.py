"""The program behind ``netconf-test``: a process of its own, as every sysrepo subscriber is.

It accepts configuration except an MTU of 666, serves ``state`` below each item, ``echo`` and the
action ``scale``. It prints "ready", runs until its standard input closes, and sends notifications
for each line there: ``alarm COUNT BYTES`` (numbered from 0, with a text that long), ``overload
ITEM`` or ``secret``; then it prints "sent".
"""

from __future__ import annotations

import sys
from typing import Any

import libyang
import sysrepo

MODULE = "netconf-test"
TOP = f"/{MODULE}:top"


class Provider:
    """Callbacks; the items come from the datastore's own change events."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.readings = 0

    def on_change(self, event: str, req_id: int, changes: list[Any], private_data: Any) -> None:
        """Refuse one value, follow the items."""
        for change in changes:
            if change.xpath == f"{TOP}/mtu" and getattr(change, "value", None) == 666:
                raise sysrepo.SysrepoValidationFailedError(f"{TOP}/mtu: 666 is not served here")
        if event not in ("done", "enabled"):
            return
        for change in changes:
            keys = dict(next(libyang.xpath_split(change.xpath))[2])
            steps = list(libyang.xpath_split(change.xpath))
            if len(steps) < 2 or steps[1][1] != "item":
                continue
            name = dict(steps[1][2])["name"]
            if isinstance(change, sysrepo.ChangeDeleted):
                if len(steps) == 2:
                    self.values.pop(name, None)
            elif steps[-1][1] == "value":
                self.values[name] = int(change.value)
            else:
                self.values.setdefault(name, 0)
            assert not keys

    def on_state(self, xpath: str, private_data: Any) -> dict[str, Any]:
        """A counter for each item, a hundred times its value; and how often it was asked."""
        self.readings += 1
        return {
            "top": {
                "item": [
                    {"name": name, "state": {"packets": 100 * value, "reading": self.readings}}
                    for name, value in self.values.items()
                ]
            }
        }

    def on_echo(self, xpath: str, params: Any, event: str, private_data: Any) -> dict[str, Any]:
        """The input."""
        if params["text"] == "fail":
            raise sysrepo.SysrepoOperationFailedError("echo was told to fail")
        return {"text": params["text"]}

    def on_restart(self, xpath: str, params: Any, event: str, private_data: Any) -> None:
        """Nothing."""

    def on_scale(self, xpath: str, params: Any, event: str, private_data: Any) -> dict[str, Any]:
        """The item's value times the factor."""
        name = dict(list(libyang.xpath_split(xpath))[1][2])["name"]
        return {"product": self.values[name] * params["factor"]}


def notify(session: sysrepo.SysrepoSession, name: str, *arguments: str) -> None:
    """Send notifications."""
    if name == "alarm":
        count, length = map(int, arguments)
        for number in range(count):
            alarm = {"number": number, "text": length * "x"}
            session.notification_send(f"/{MODULE}:alarm", alarm, strict=True)
    elif name == "overload":
        session.notification_send(f"{TOP}/item[name='{arguments[0]}']/overload", {}, strict=True)
    else:
        session.notification_send(f"/{MODULE}:{name}", {}, strict=True)


def main() -> None:
    """Subscribe and wait."""
    provider = Provider()
    with sysrepo.SysrepoConnection() as connection, connection.start_session() as session:
        session.subscribe_module_change(MODULE, TOP, provider.on_change, enabled=True)
        session.subscribe_oper_data_request(
            MODULE, TOP, provider.on_state, strict=True, oper_merge=True
        )
        session.subscribe_rpc_call(f"/{MODULE}:echo", provider.on_echo, strict=True)
        session.subscribe_rpc_call(f"/{MODULE}:restart", provider.on_restart)
        session.subscribe_rpc_call(f"{TOP}/item/scale", provider.on_scale, strict=True)
        print("ready", flush=True)
        for line in sys.stdin:
            notify(session, *line.split())
            print("sent", flush=True)


if __name__ == "__main__":
    main()
