"""Limits of the operating system that many sessions run into."""

from __future__ import annotations

import resource


def raise_descriptor_limit() -> None:
    """Allow this process as many open files as it may have: each store takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
