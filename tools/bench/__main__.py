"""`python -m tools.bench`: the same as `stamp-bench`."""

from __future__ import annotations

import sys

from tools.bench.cli import main

sys.exit(main())
