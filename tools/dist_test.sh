#!/usr/bin/env bash
# Test on several GPUs; without CHECKPOINT the model as its config builds it. See dist_run.sh for several machines.
set -euo pipefail

usage() {
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500] $0 CONFIG [CHECKPOINT] GPUS [test.py options]" >&2
    exit 2
}

[[ $# -ge 2 ]] || usage
model=("$1")
shift
if [[ ! $1 =~ ^[0-9]+$ ]]; then
    model+=("$1")
    shift
fi
[[ ${1:-} =~ ^[0-9]+$ ]] || usage
gpus=$1
shift
exec "$(dirname "${BASH_SOURCE[0]}")/dist_run.sh" "$gpus" test.py "${model[@]}" "$@"
