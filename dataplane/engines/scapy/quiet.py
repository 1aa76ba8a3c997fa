"""Scapy's settings, to be imported before any of its layers.

Scapy is made for a prompt: it reads all routes of the machine when it is imported
and warns on the console. A daemon needs neither.
"""

from __future__ import annotations

import logging

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.config import conf  # noqa: E402

conf.route_autoload = False
conf.route6_autoload = False
conf.ipv6_enabled = True
