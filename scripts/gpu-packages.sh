#!/bin/sh
# Brings what a GPU needs into an environment that has everything else. $1: its interpreter.
set -eu
python=$1
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
add() { pip install -c constraints.txt -c scripts/gpu-requirements.txt "$@"; }

# Both are one folder: the one that is installed over the other loses files when that is removed.
pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
add onnxruntime-gpu torch
add tensorrt || cat >&2 <<'EOF'
NOT INSTALLED: TensorRT. pip says above why; most likely this machine does not reach NVIDIA's own index,
where its libraries come from. Engines cannot be built or compared here; everything else works. Then:
touch scripts/gpu-requirements.txt && make environment
EOF

# onnxruntime-gpu stands in for the onnxruntime that our distributions ask for; pip does not know that.
if problems=$(pip check); then
    exit 0
fi
others=$(echo "$problems" | grep -v '^ctclip-[a-z]* [^ ]* requires onnxruntime, which is not installed\.$' || true)
if [ -n "$others" ]; then
    echo "$others" >&2
    exit 1
fi
