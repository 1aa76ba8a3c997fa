"""Other users of the same sysrepo, as processes: `python -m … refuse|listen`.

refuse: a second subscriber that refuses every change, after stampd agreed.
listen: prints the notifications of srv6-stamp, a JSON document a line.
"""

from __future__ import annotations

import json
import sys

import sysrepo


def refuse(session: sysrepo.SysrepoSession) -> None:
    def callback(event: str, _request: int, _changes: list[object], _private: object) -> None:
        if event == "change":
            raise sysrepo.SysrepoValidationFailedError("the other subscriber refuses")

    session.subscribe_module_change("srv6-stamp", "/srv6-stamp:stamp", callback)


def listen(session: sysrepo.SysrepoSession) -> None:
    def callback(
        xpath: str, _type: str, values: dict[str, object], _time: int, _private: object
    ) -> None:
        print(json.dumps([xpath, values]), flush=True)

    session.subscribe_notification("srv6-stamp", "/srv6-stamp:session-state-change", callback)


if __name__ == "__main__":
    with sysrepo.SysrepoConnection() as connection:
        {"refuse": refuse, "listen": listen}[sys.argv[1]](connection.start_session("running"))
        print("ready", flush=True)
        sys.stdin.read()
