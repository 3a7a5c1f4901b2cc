"""Prints the options of tritonserver that size its memory pools on a GPU, one a line.

Why so much, and what else the GPU has to hold, goes to standard error. Ends with exit code 2 where
that cannot fit. Nothing is printed where no GPU answers and no config for one was chosen.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from gpu_memory import CUDA_CONTEXT_BYTES, CUDA_POOL, arenas, engine_bytes, pools

CONFIGS = ("gpu", "tensorrt")
"""Configs that are chosen for a GPU alone."""
_QUERY = ("nvidia-smi", "--query-gpu=memory.total,memory.used", "--format=csv,noheader,nounits")


def main() -> int:
    """Print the options; see the top of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--config-name", default="")
    options = parser.parse_args()
    memory = gpu_memory_bytes()
    if memory is None and options.config_name not in CONFIGS:
        return 0
    try:
        found = pools(options.repository, options.config_name, os.environ)
        onnxruntime = arenas(options.repository, options.config_name)
        parts = {
            "Triton's pool": found.cuda_bytes,
            "engines": engine_bytes(options.repository, options.config_name),
            "ONNX Runtime, at least": onnxruntime.least_bytes,
            "CUDA itself, a guess": CUDA_CONTEXT_BYTES,
        }
    except (OSError, ValueError) as error:
        return refuse(f"the memory pools of the GPU cannot be sized: {error}.")
    said = ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
    print(
        f"ctclip: GPU memory in GiB: {said}. The pool has room for a scan and, of the "
        f"{found.voxels} volumes of a full queue, {min(found.room, found.voxels)}.",
        file=sys.stderr,
    )
    if memory is None:
        print("ctclip: nvidia-smi does not tell how much there is: not checked.", file=sys.stderr)
    else:
        least = sum(parts.values())
        likely = least - onnxruntime.least_bytes + onnxruntime.likely_bytes
        total, free = memory[0], memory[0] - memory[1]
        remedy = (
            f"{gib(free)} of this GPU's {gib(total)} GiB are free. Set {CUDA_POOL} to less than "
            f"{found.cuda_bytes} (volumes that find no room then take the way through host "
            "memory), or take a larger GPU."
        )
        if least > free:
            return refuse(f"that is {gib(least)} GiB, and {remedy}")
        if likely > free:
            print(
                f"ctclip: WARNING: ONNX Runtime's arenas may grow that to {gib(likely)} GiB, and "
                f"{remedy}",
                file=sys.stderr,
            )
    print(f"--cuda-memory-pool-byte-size=0:{found.cuda_bytes}")
    print(f"--pinned-memory-pool-byte-size={found.pinned_bytes}")
    return 0


def gpu_memory_bytes() -> tuple[int, int] | None:
    """Total and used memory of the container's first GPU; None where none answers."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=60, check=True)
        total, used = (int(field) for field in done.stdout.splitlines()[0].split(","))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None
    return total * 2**20, used * 2**20


def gib(size: int) -> str:
    """Bytes in GiB, as text."""
    return f"{size / 2**30:.1f}"


def refuse(message: str) -> int:
    """Say why nothing can be started."""
    print(f"ctclip: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
