#!/usr/bin/env bash
# tools/dist_run.sh SCRIPT PROCESSES [script arguments]: shared by dist_train.sh and dist_test.sh
set -euo pipefail
script=$1 processes=$2
shift 2
# One thread a process by default, as torchrun sets it; set here so that torchrun does not warn.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Several machines meet at MASTER_ADDR:PORT. One machine picks a free port, so that two runs never collide.
if [ "${NNODES:-1}" -gt 1 ] || [ -n "${PORT:-}" ]; then
    rendezvous=(--nnodes "${NNODES:-1}" --node-rank "${NODE_RANK:-0}" --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${PORT:-29500}")
else
    rendezvous=(--standalone)
fi
exec python "$(dirname "$0")/dist_run.py" "${rendezvous[@]}" --nproc-per-node "$processes" \
    "$(dirname "$0")/$script" "$@" --launcher pytorch
