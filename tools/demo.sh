#!/usr/bin/env bash
# Sets the machine up, then shows that what is measured is what was injected:
# two edges, two SRv6 paths, STAMP sessions configured over NETCONF.
#
# usage: tools/demo.sh [ARGUMENTS], see tools/demo.sh --help
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${STAMP_VENV:-$ROOT/.venv}

# Nobody who asks what this is wants the machine changed.
case " $* " in
    *" -h "* | *" --help "*)
        PYTHON=$VENV/bin/python
        [ -x "$PYTHON" ] || PYTHON=python3
        cd "$ROOT"
        exec "$PYTHON" -m tools.demo.arguments --help
        ;;
esac
"$ROOT/tools/setup.sh"
# The lab starts programs by name: ours come first.
export PATH="$VENV/bin:$PATH"
# The working directory stays the caller's: --output and --json are relative to it.
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
exec "$VENV/bin/python" -m tools.demo "$@"
