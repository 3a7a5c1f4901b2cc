"""The GPU, as the driver tells it: the one that CUDA will use, and no other."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ctclip_bench.parity import steps
from ctclip_bench.parity.inputs import read_inputs
from ctclip_export.engines import process as process_module
from ctclip_export.engines.compiler import Job
from ctclip_export.engines.gpu import NoGpu, parse_gpu, read_gpu
from ctclip_export.engines.process import compile_in_process
from ctclip_export.engines.target import RTX, EngineError

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"


def test_the_drivers_line_is_read() -> None:
    gpu = parse_gpu("NVIDIA A100-SXM4-80GB, 8.0, 81920, 512, 570.86.15\n")
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA A100-SXM4-80GB", "8.0")
    assert (gpu.memory_bytes, gpu.memory_used_bytes) == (81920 * 2**20, 512 * 2**20)


@pytest.mark.parametrize("odd", ["", "\n", " \n\n", "No devices were found", "a, b, c, d, e"])
def test_an_odd_answer_is_no_gpu(odd: str) -> None:
    with pytest.raises(NoGpu, match="nvidia-smi: not understood"):
        parse_gpu(odd)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with two GPUs; PATH holds nothing else."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text(
        '#!/bin/sh\ncase "$1" in\n'
        '--id=0) echo "NVIDIA T4, 7.5, 16384, 0, 580.65";;\n'
        f'--id=1 | --id={UUID}) echo "NVIDIA A100, 8.0, 81920, 0, 580.65";;\n'
        '*) echo "No devices were found"; exit 6;;\nesac\n'
    )
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize(
    ("visible", "name"),
    [(None, "T4"), ("0", "T4"), ("1", "A100"), ("1,0", "A100"), (" 1 ", "A100"), (UUID, "A100")],
)
def test_the_first_visible_one_is_read(
    visible: str | None, name: str, two: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is CUDA's first device, on which TensorRT builds and torch runs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert read_gpu().name == f"NVIDIA {name}"


def test_others_than_this_process_may_see_others(two: None) -> None:
    assert read_gpu({"CUDA_VISIBLE_DEVICES": "1"}).name == "NVIDIA A100"
    assert read_gpu({}).name == "NVIDIA T4"


@pytest.mark.parametrize("visible", ["", "-1", "MIG-1c5a0d2e", "none"])
def test_what_is_no_whole_gpu_is_said(visible: str, two: None) -> None:
    with pytest.raises(NoGpu, match=f"CUDA_VISIBLE_DEVICES: got '{visible}'"):
        read_gpu({"CUDA_VISIBLE_DEVICES": visible})


def test_one_that_is_not_there_is_said(two: None) -> None:
    with pytest.raises(NoGpu, match="No devices were found"):
        read_gpu({"CUDA_VISIBLE_DEVICES": "2"})


def test_the_compiler_numbers_gpus_as_the_driver_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's own order is by speed: its first could be another than the one that was recorded."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    program = (
        "import os, sys; sys.stdin.readline(); "
        "sys.exit(os.environ['CUDA_DEVICE_ORDER'] + ' ' + os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    monkeypatch.setattr(process_module, "_COMMAND", (sys.executable, "-c", program))
    job = Job(RTX.name, "ctclip_vision", "model.onnx", str(tmp_path / "plan"), "8.0", {})
    with pytest.raises(EngineError, match=r"exit code 1 and without a result \(PCI_BUS_ID 1\)"):
        compile_in_process(job)


def test_so_does_the_parity_check_where_it_runs_a_plan(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA reads the variable once, when it is first used: the step sets it before anything."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")  # CUDA's own

    def checked_engine(*_: Any) -> None:
        raise EngineError(f"in the order {os.environ['CUDA_DEVICE_ORDER']}")

    monkeypatch.setattr(steps, "checked_engine", checked_engine)
    inputs = read_inputs(repository, (), None, None)
    with pytest.raises(EngineError, match="in the order PCI_BUS_ID"):
        steps.engine(inputs, ())
