#!/usr/bin/env bash
# Train on N GPUs of this machine (or N CPU processes where there is no GPU), with torchrun.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT.
if [ $# -lt 2 ]; then
    echo "usage: tools/dist_train.sh CONFIG NUM_PROCESSES [options of tools/train.py]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m mmws.engine.launch train "$2" "$here/train.py" "$1" "${@:3}"
