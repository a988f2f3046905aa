#!/usr/bin/env bash
# Evaluate on N GPUs of this machine (or N CPU processes where there is no GPU), with torchrun.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT.
if [ $# -lt 3 ]; then
    echo "usage: tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [options of tools/test.py]" >&2
    exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" -m mmws.engine.launch test "$3" "$here/test.py" "$1" "$2" "${@:4}"
