#!/usr/bin/env bash
# tools/dist_train.sh CONFIG GPUS [train.py options]
# GPUS processes on this machine, with gloo where it has no GPU. Several machines: NNODES, NODE_RANK, MASTER_ADDR, PORT.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG GPUS [train.py options]" >&2; exit 2; }
exec "$(dirname "$0")/dist_run.sh" train.py "$2" "$1" "${@:3}"
