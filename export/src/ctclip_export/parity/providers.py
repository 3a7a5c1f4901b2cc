"""ONNX Runtime on a GPU: sessions that compute where they were asked to, in full float32.

    python -m ctclip_export.parity.providers PROVIDER

ends with exit code 1 and the reason where this machine cannot start that provider.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from ctclip_client.errors import CTClipError
from ctclip_export.engines.gpu import NoGpu, read_gpu

Providers = Sequence[tuple[str, Mapping[str, str]]]
"""Execution providers and their options; a node goes to the first that has a kernel for it."""

CPU: Providers = (("CPUExecutionProvider", {}),)
CUDA: Providers = (("CUDAExecutionProvider", {"use_tf32": "0"}), *CPU)
"""Without TF32, which is on by default: what is float32 in a graph has to be exact."""
START_TIMEOUT_S: float = 300
"""For the first kernel on a GPU, with CUDA's libraries on a slow disk."""


class NoProvider(CTClipError):
    """ONNX Runtime cannot compute where it was asked to. Exit code 1."""


def load_cuda_libraries() -> None:
    """Let ONNX Runtime find CUDA's libraries in the packages that torch brings.

    It says on stdout what it does not find: here on stderr, since results are printed there.
    """
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()


def open_session(
    path: Path | bytes, providers: Providers, *, profile: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session whose first provider is the first of `providers`, also when that fails in a run.

    profile: how names of files begin that say where each node ran, see `end_profiling`.
    Raises: NoProvider where ONNX Runtime would take another in its place, as it does without a word
    when CUDA's libraries are missing; its own errors for a graph that it cannot run.
    """
    wanted = providers[0][0]
    if wanted == CUDA[0][0]:
        load_cuda_libraries()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors come back as exceptions
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        session = onnxruntime.InferenceSession(
            path if isinstance(path, bytes) else str(path), options,
            providers=[(name, dict(chosen)) for name, chosen in providers],
        )  # fmt: skip
    if wanted not in session.get_providers():
        reason = f": {said[-1].message}" if said else ""
        raise NoProvider(f"onnxruntime does not start {wanted} here{reason}")
    session.disable_fallback()  # it would compute on the CPU what fails on a GPU, and say nothing
    return session


def run_session(
    session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """All outputs of a session's graph, by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def missing_cuda() -> str:
    """Why ONNX Runtime cannot compute on a GPU here; "" if it can."""
    wanted = CUDA[0][0]
    if wanted not in onnxruntime.get_available_providers():
        return (
            f"this onnxruntime has no {wanted}: make environment GPU=1 puts onnxruntime-gpu in its "
            "place"
        )
    try:
        read_gpu()
    except NoGpu as error:
        return error.cause
    # In a process of its own: this one is to take no GPU memory.
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, wanted],
            capture_output=True, text=True, check=False, timeout=START_TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{wanted} did not start within {START_TIMEOUT_S} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    loader = re.search(r"with error: (.+)", done.stderr)  # as ONNX Runtime logs it
    return f"{lines[-1]}: {loader[1]}" if loader else lines[-1]


def _smallest_graph() -> bytes:
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "XY")
    graph = helper.make_graph([helper.make_node("Add", ["X", "X"], ["Y"])], "twice", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    proto = helper.make_model(graph, opset_imports=opset, ir_version=8)
    return bytes(proto.SerializeToString())


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute once on the provider that is named."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    providers = CUDA if name == CUDA[0][0] else ((name, {}), *CPU)
    try:
        session = open_session(_smallest_graph(), providers)
        twice = run_session(session, {"X": np.ones(1, np.float32)})["Y"]
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the reason)
        cause = error.cause if isinstance(error, CTClipError) else str(error)
        print(" ".join(cause.split()), file=sys.stderr)
        return 1
    return 0 if twice[0] == 2 else 1


if __name__ == "__main__":
    sys.exit(main())
