#!/usr/bin/env bash
# Checks the YANG module with pyang and yanglint, that the tree beside it is
# the module's, and that the example instance document is valid.
#
# usage: tools/check_yang.sh [--write-tree]
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
VENV=${STAMP_VENV:-$ROOT/.venv}
MODULES=(/usr/share/yang/modules/* "$VENV/share/yang/modules/ietf")
SEARCH=$(IFS=:; echo "${MODULES[*]}")
cd "$ROOT/yang"
MODULE=$(ls srv6-stamp@*.yang)
FEATURES=srv6-stamp:session-sender,session-reflector,engine-scapy,engine-xdp

tree() { "$VENV/bin/pyang" -f tree --tree-line-length 76 -p "$SEARCH" "$MODULE"; }

if [ "${1-}" = --write-tree ]; then
    tree >srv6-stamp.tree
    exit
fi

LINTED=$("$VENV/bin/pyang" --lint -p "$SEARCH" "$MODULE" 2>&1)
[ -z "$LINTED" ] || { echo "$LINTED"; exit 1; }
SEARCH_OPTIONS=()
for directory in "${MODULES[@]}"; do SEARCH_OPTIONS+=(-p "$directory"); done
yanglint "${SEARCH_OPTIONS[@]}" -F "$FEATURES" "$MODULE"
tree | diff -u srv6-stamp.tree - || { echo "srv6-stamp.tree is stale: tools/check_yang.sh --write-tree"; exit 1; }
yanglint "${SEARCH_OPTIONS[@]}" -F "$FEATURES" \
    -t config "$MODULE" example.json
echo "YANG: clean"
