#!/usr/bin/env bash
# Compare FlowOS with the floor and its rivals; arguments go to benchmarks/run.py.
#
# A rival that cannot be installed here is left out, and the report says so.
set -u
cd "$(dirname "$0")/.." || exit 1
scripts/debian.sh bench
.venv/bin/python -c 'import nfstream' 2>/dev/null || .venv/bin/python -m pip -q install nfstream 2>/dev/null
exec .venv/bin/python benchmarks/run.py "$@"
