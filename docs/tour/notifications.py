"""Wait for the next computation interval to close, then read its statistics, with ncclient alone.

usage: stamp-lab status --json | python docs/tour/notifications.py edge1
"""

import json
import sys
from pathlib import Path

from ncclient import manager

NAMES = {"s": "urn:x-srv6-stamp:yang:srv6-stamp"}
INTERVAL = "/s:stamp/s:session-sender/s:session[s:ssid='{}']/s:interval-statistics[s:number='{}']"

nodes = json.load(sys.stdin)["nodes"]
access = next(node["netconf"] for node in nodes if node["name"] == sys.argv[1])
with manager.connect(
    host=access["host"],
    port=access["port"],
    username=access["user"],
    key_filename=access["key_file"],
    hostkey_b64=Path(access["host_key_file"]).read_text().split()[1],
    allow_agent=False,
    look_for_keys=False,
) as netconf:
    # Without a filter all come: changes of a session's state, edits of the configuration too.
    netconf.create_subscription(filter=("xpath", (NAMES, "/s:interval-closed")))
    notification = netconf.take_notification(timeout=60)
    if notification is None:
        sys.exit(f"no interval was closed on {sys.argv[1]} within a minute: does a session run?")
    event = notification.notification_ele
    ssid = event.findtext(".//s:ssid", namespaces=NAMES)
    number = event.findtext(".//s:number", namespaces=NAMES)
    print(f"{event.findtext('{*}eventTime')}: interval {number} of session {ssid} is closed")
    # The same session answers requests while it is told of events.
    statistics = netconf.get(filter=("xpath", (NAMES, INTERVAL.format(ssid, number)))).data_ele
    samples = statistics.findtext(".//s:forward/s:samples", namespaces=NAMES)
    mean = statistics.findtext(".//s:forward/s:mean", namespaces=NAMES)
    print(f"forward: {samples} packets" + (f", mean {int(mean) / 1e6:.3f} ms" if mean else ""))
