#!/usr/bin/env python3
"""Once after the start: does this machine compute what the release recorded of its reference?

`serve` starts it in the background. It waits until Triton is ready, sends one phantom through
`ctclip_zero_shot` and leaves one line in a file, which the health check reads: `running` (written
by `serve`), `passed …`, `skipped …` (an older ctclip exported the repository) or `failed …`. Triton
answers meanwhile. It takes the standard library, NumPy and two files of the client library.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from health_check import READY, RESULT, TritonHttp, UnhealthyError

ENSEMBLE = "ctclip_zero_shot"
VISION = "ctclip_vision"
DATATYPES = {"VOLUME": "INT16", "SPACING": "FP64", "RESCALE": "FP32", "PROMPTS": "BYTES"}
BUSY = 503
"""Triton's queue is full."""
POLL_S = 0.25


def main(arguments: list[str] | None = None) -> int:
    """Run it; see the module."""
    parser = argparse.ArgumentParser(description="Self-check of a CT-CLIP Triton.")
    parser.add_argument("--repository", type=Path, required=True)
    parser.add_argument("--config-name", default="")
    parser.add_argument(
        "--result", type=Path, default=RESULT, help="where to leave it (%(default)s)"
    )
    parser.add_argument("--server-process", type=int, required=True, help="ends when that is gone")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="Triton's HTTP port (%(default)s)")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="for the answer")
    options = parser.parse_args(arguments)
    if not wait_until_ready(options):
        return 1
    try:
        result = ask(options)
    except Exception as error:  # noqa: BLE001 (whatever it is, the health check must report it)
        result = f"failed: it could not be made: {error}"
    print(f"ctclip: self-check {result}", file=sys.stderr, flush=True)
    try:
        leave(options.result, result)
    except OSError as error:
        print(f"ctclip: cannot write {options.result}: {error.strerror}", file=sys.stderr)
        return 1
    return 1 if result.startswith("failed") else 0


def wait_until_ready(options: argparse.Namespace) -> bool:
    """Wait for Triton; false if its process is gone."""
    while runs(options.server_process):
        try:
            TritonHttp(options.host, options.port, 5).get(READY)
        except UnhealthyError:
            time.sleep(POLL_S)
        else:
            return True
    return False


def runs(process: int) -> bool:
    """Whether a process is there and has not ended; one that nobody has asked after yet has."""
    try:
        status = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def ask(options: argparse.Namespace) -> str:
    """The result in words."""
    from self_check import FILE, MODEL, precision_in_force, read_self_check

    pins = set(re.findall(r"model_version:\s*(-?\d+)", config(options, ENSEMBLE)))
    if len(pins) != 1 or "-1" in pins:
        return f"failed: the steps of {ENSEMBLE} are of versions {sorted(pins)}, expected one"
    try:
        check = read_self_check(options.repository / MODEL / pins.pop() / FILE)
    except FileNotFoundError:
        return "skipped: this release carries none; export it again with a newer ctclip"
    backend, hint = (
        "".join(re.findall(pattern, config(options, VISION))[:1])
        for pattern in (
            r'(?m)^backend:\s*"([^"]*)"',
            r'key:\s*"HINT_BF16",?\s*value\s*:?\s*\{\s*string_value:\s*"([^"]*)"',
        )
    )
    precision = precision_in_force(check.precision, backend, hint)
    found = check.judge(infer(options, check), precision)
    where = f"in {precision}, {VISION} by {backend} on {device(backend)}"
    if found.problems:
        return f"failed: {'; '.join(found.problems)} ({where})"
    return f"passed {where}: {found}"


def config(options: argparse.Namespace, model: str) -> str:
    """The text of the config that Triton takes."""
    folder = options.repository / model
    variant = folder / "configs" / f"{options.config_name}.pbtxt"
    chosen = variant if options.config_name and variant.is_file() else folder / "config.pbtxt"
    return str(chosen.read_text("utf-8"))


def infer(options: argparse.Namespace, check: Any) -> dict[str, Any]:
    """The answer's arrays by name; asked again while callers fill the queue."""
    import numpy as np

    inputs = [
        {
            "name": name,
            "datatype": DATATYPES[name],
            "shape": list(array.shape),
            "data": [
                each.decode() if isinstance(each, bytes) else each
                for each in array.ravel().tolist()
            ],
        }
        for name, array in check.inputs().items()
    ]
    shapes = {
        "IMAGE_EMBEDDING": check.image_embedding.shape,
        "LOGITS": check.logits.shape,
        "PROBABILITIES": check.logits.shape[:2],
        "PROVENANCE": (1,),
    }
    server = TritonHttp(options.host, options.port, options.timeout_s)
    while True:
        try:
            got = server.infer(ENSEMBLE, inputs, list(shapes))
            break
        except UnhealthyError as error:
            if error.status != BUSY:
                raise
        time.sleep(POLL_S)
    return {
        name: np.array(got[name], object if name == "PROVENANCE" else np.float32).reshape(shape)
        for name, shape in shapes.items()
    }


def device(backend: str) -> str:
    """The GPU's name, or without one the CPU's and its instruction sets."""
    from processor import processor

    if backend == "openvino":  # on CPUs only
        return processor()
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],  # noqa: S607
            capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return processor()
    names = ", ".join(sorted(set(done.stdout.split("\n")) - {""}))
    return names if done.returncode == 0 and names else processor()


def leave(path: Path, result: str) -> None:
    """Put one line into the file at once."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(" ".join(result.split()) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
