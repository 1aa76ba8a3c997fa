#!/usr/bin/env bash
# Sets the machine up, then runs every check: YANG, lint, types, all tests.
#
# usage: tools/test.sh [PYTEST ARGUMENTS]
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

say() { printf '\n== %s\n' "$*"; }

tools/setup.sh
# The engine and the lab start programs by name: ours come first.
export PATH="${STAMP_VENV:-$ROOT/.venv}/bin:$PATH"

say "YANG: model, tree and example"
tools/check_yang.sh

say "shell: syntax"
bash -n tools/*.sh .ci/run

say "ruff: lint and format"
ruff check .
ruff format --check .

say "mypy --strict"
mypy

say "tests"
python -m pytest "$@"
