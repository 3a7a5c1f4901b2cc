"""Run an ONNX file on the CPU, as everything needs it that compares or prepares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ctclip_client.contract import VOXELS
from ctclip_client.volume import Volume


def run_onnx(path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """All outputs of the graph, by name, for one run by ONNX Runtime's CPU provider."""
    options = onnxruntime.SessionOptions()
    # Errors come back as exceptions; printed as well, a user would see them twice.
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def run_preprocess(path: Path, scan: Volume) -> NDArray[np.float32]:
    """VOXELS (1, 1, D, H, W) of a scan, by an exported preprocessing graph."""
    voxels: NDArray[np.float32] = run_onnx(path, scan.tensors())[VOXELS.name]
    return voxels
