#!/bin/sh
# Brings what a GPU needs into an environment that has everything else. $1: its interpreter.
set -eu
python=$1
pip() { "$python" -m pip --disable-pip-version-check "$@"; }

# Both are one folder: the one that is installed over the other loses files when that is removed.
pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
pip install -c constraints.txt -r scripts/gpu-requirements.txt

# onnxruntime-gpu stands in for onnxruntime, which pip does not know.
if problems=$(pip check); then
    exit 0
fi
others=$(echo "$problems" | grep -v ' requires onnxruntime, which is not installed\.$' || true)
if [ -n "$others" ]; then
    echo "$others" >&2
    exit 1
fi
