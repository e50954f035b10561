#!/usr/bin/env bash
# tools/slurm_train.sh PARTITION JOB_NAME CONFIG [train.py options]
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: [GPUS=8] $0 PARTITION JOB_NAME CONFIG [train.py options]" >&2; exit 2; }
exec "$(dirname "$0")/slurm_run.sh" train.py "$@"
