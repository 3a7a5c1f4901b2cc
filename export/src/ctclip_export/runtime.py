"""Run an ONNX file on the CPU, as the parity checks need it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray


def run_onnx(path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All outputs of the graph, by name, for one run by ONNX Runtime's CPU provider."""
    options = onnxruntime.SessionOptions()
    # Errors come back as exceptions; printed as well they would stand twice on a user's screen.
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
