"""Read the state of session 1, then take its records, with ncclient alone.

usage: stamp-lab status --json | python docs/tour/results.py edge1
"""

import json
import sys
from pathlib import Path

from lxml import etree
from ncclient import manager
from ncclient.operations import RPCError

STAMP = "urn:x-srv6-stamp:yang:srv6-stamp"
NAMES = {"s": STAMP}

FETCH = f"""
<action xmlns="urn:ietf:params:xml:ns:yang:1">
  <stamp xmlns="{STAMP}">
    <session-sender>
      <session><ssid>1</ssid><fetch-results><max>5</max></fetch-results></session>
    </session-sender>
  </stamp>
</action>
"""

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
    delay = "/s:stamp/s:session-sender/s:session[s:ssid='1']/s:delay"
    data = netconf.get(filter=("xpath", (NAMES, delay))).data_ele
    for direction in data.iterfind(".//s:delay/*", NAMES):
        name = etree.QName(direction).localname
        values = {etree.QName(leaf).localname: leaf.text for leaf in direction}
        # What is not known is absent: a mean of no packets, the jitter of one.
        known = (
            f"{leaf} {int(values[leaf]) / 1e6:.3f} ms"
            for leaf in ("mean", "jitter")
            if leaf in values
        )
        print(f"{name}: {', '.join(known) or 'not known yet'}")
    try:
        reply = etree.fromstring(netconf.dispatch(etree.fromstring(FETCH)).xml.encode())
    except RPCError as error:
        sys.exit(f"session 1 of {sys.argv[1]} has no records to take: {error.message}")
    for result in reply.iterfind(".//s:result", NAMES):
        fields = {etree.QName(leaf).localname: leaf.text for leaf in result}
        print(
            f"packet {fields['sequence']}: T1 {fields['t1']} T2 {fields['t2']}"
            f" T3 {fields['t3']} T4 {fields['t4']}"
        )
