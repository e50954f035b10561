#!/usr/bin/env bash
# tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [test.py options]
# Environment: see tools/slurm_train.sh.
set -euo pipefail
[ $# -ge 4 ] || { echo "usage: [GPUS=8] $0 PARTITION JOB_NAME CONFIG CHECKPOINT [test.py options]" >&2; exit 2; }
exec "$(dirname "$0")/slurm_run.sh" test.py "$@"
