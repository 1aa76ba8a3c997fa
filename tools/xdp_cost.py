"""What a packet costs in the driver: a table of nanoseconds, beside bare programs.

usage: python -m tools.xdp_cost
"""

from __future__ import annotations

from dataplane.engines.xdp.cost import costs
from tools.bench.namespace import alone


def main() -> None:
    print(f"{'':48}{'ns':>8}{'bare':>8}")
    with alone():
        found = costs()
    for cost in found:
        print(f"{cost.what:48}{cost.ns:8.0f}{cost.bare_ns:8.0f}")


if __name__ == "__main__":
    main()
