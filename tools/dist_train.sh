#!/usr/bin/env bash
# Train on several GPUs; see dist_run.sh for several machines.
set -euo pipefail

if [[ $# -lt 2 || ! $2 =~ ^[0-9]+$ ]]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG GPUS [train.py options]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" "$gpus" train.py "$config" "$@"
