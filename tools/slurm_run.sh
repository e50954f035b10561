#!/usr/bin/env bash
# tools/slurm_run.sh SCRIPT PARTITION JOB_NAME [script arguments]: shared by slurm_train.sh and slurm_test.sh
set -euo pipefail
script=$1 partition=$2 job_name=$3
shift 3
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
((gpus_per_node <= gpus)) || gpus_per_node=$gpus
# GPUS_PER_NODE=0 requests no GPUs: GPUS is then the number of CPU processes.
if ((gpus_per_node > 0)); then
    resources=(--gres="gpu:$gpus_per_node" --ntasks-per-node="$gpus_per_node")
else
    resources=()
fi
# shellcheck disable=SC2086  # SRUN_ARGS is a list of words
exec srun -p "$partition" --job-name="$job_name" --ntasks="$gpus" "${resources[@]}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/$script" "$@" --launcher slurm
