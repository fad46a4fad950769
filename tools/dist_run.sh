#!/usr/bin/env bash
# What dist_train.sh and dist_test.sh share: start SCRIPT, a file beside this one, once per GPU.
# On several machines it runs on each, with NNODES, NODE_RANK, MASTER_ADDR and PORT set in the environment.
set -euo pipefail

gpus=$1
script=$2
shift 2
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$tools/..${PYTHONPATH:+:$PYTHONPATH}"

# `python -m torch.distributed.run` is torchrun, in the environment that `python` belongs to.
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" \
    "$tools/$script" "$@" --launcher pytorch
