"""What can go wrong with the bench itself."""

from __future__ import annotations


class BenchError(Exception):
    """The bed cannot be built, or what was measured cannot be trusted; for the operator."""
