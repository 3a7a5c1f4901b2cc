"""Guards of the encoders: which rows they mark, in which runtime, and that the others stay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from ctclip_export.checkpoint import Checkpoint
from ctclip_export.parity.runtimes import OPENVINO_OPTIONS, openvino_core
from ctclip_export.repository.build import Export

from ..conftest import Golden

Array = NDArray[Any]
Run = Callable[..., list[Array]]


def by_onnx_runtime(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs, strict=True)))


def by_openvino(path: Path) -> Run:
    request = openvino_core().compile_model(path, "CPU", OPENVINO_OPTIONS).create_infer_request()
    return lambda *inputs: [np.array(array) for array in request.infer(list(inputs)).values()]


RUNTIMES = {"onnxruntime": by_onnx_runtime, "openvino": by_openvino}
RUNS = [*product(RUNTIMES, ["fp32", "fp16", "int8"]), ("openvino", "bf16")]
Encoder = Callable[[str], Run]


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def encoder(request: pytest.FixtureRequest, exported_in: Callable[[str], Export]) -> Encoder:
    """An exported encoder in a runtime, by the model's name."""
    runtime, precision = request.param
    repository = exported_in(precision).repository
    return lambda model: RUNTIMES[runtime](repository / model / "1" / "model.onnx")


def put(array: Array, *at: int, value: float) -> Array:
    changed = array.copy()
    changed[at] = value
    return changed


def check_marked(run: Run, good: list[Array], wrong: list[Array], rows: set[int]) -> None:
    """Bad rows are NaN and -1; the others have the bits that they have among good ones."""
    for before, found in zip(run(*good), run(*wrong), strict=True):
        kept = [row for row in range(len(found)) if row not in rows]
        assert np.isfinite(before).all()
        assert found[kept].tobytes() == before[kept].tobytes()
        marked = found[sorted(rows)]
        assert (np.isnan(marked) if marked.dtype == np.float32 else marked == -1).all()


def test_volumes_that_are_no_numbers(encoder: Encoder, golden: Golden) -> None:
    run = encoder("ctclip_vision")
    voxels = golden.expected["b3_volume"].astype(np.float32)
    _, _, depth, height, width = voxels.shape
    places = [(0, 0, 0, 0), (0, depth // 2, height // 2, 1), (0, depth - 1, height - 1, width - 1)]
    for row, value in ((0, np.nan), (1, np.inf), (2, -np.inf), (0, 1e30)):
        check_marked(run, [voxels], [put(voxels, row, *places[row], value=value)], {row})
    two = put(put(voxels, 0, *places[1], value=np.inf), 2, *places[2], value=np.nan)
    check_marked(run, [voxels], [two], {0, 2})
    check_marked(run, [voxels], [np.full_like(voxels, np.nan)], {0, 1, 2})
    assert all(np.isfinite(array).all() for array in run(voxels * 1000))  # odd, but numbers


def test_texts_that_are_none(encoder: Encoder, golden: Golden, checkpoint: Checkpoint) -> None:
    run = encoder("ctclip_text")
    ids = golden.expected["prompt_input_ids"].astype(np.int64)
    mask = (ids != 0).astype(np.int64)
    good, last, count = [ids, mask], len(ids) - 1, checkpoint.model.config.text.vocabulary_size
    numbers = (-1, -count, count, 10**9, -(2**31), 2**31 - 1)
    for index, value in enumerate(numbers):
        row, column = ((0, 0), (1, 3), (last, ids.shape[1] - 1))[index % 3]
        check_marked(run, good, [put(ids, row, column, value=value), mask], {row})
    for value in (-1, 2, 10**9):
        check_marked(run, good, [ids, put(mask, last, 2, value=value)], {last})
    check_marked(run, good, [ids, put(mask, 1, value=0)], {1})
    check_marked(run, good, [put(ids, 0, 1, value=-1), put(mask, last, value=0)], {0, last})
    edge = run(put(ids, 0, 1, value=count - 1), mask)
    assert np.isfinite(edge).all()
    long = np.ones((1, 512), np.int64)
    assert np.isfinite(run(long, long)).all()
    assert np.isfinite(run(long[:, :1], long[:, :1])).all()


def test_shapes_that_do_not_fit_get_no_answer(encoder: Encoder, golden: Golden) -> None:
    """An error or marks in every row: Triton joins only requests of equal shapes."""
    run = encoder("ctclip_text")
    ids = golden.expected["prompt_input_ids"].astype(np.int64)
    mask, long = (ids != 0).astype(np.int64), np.ones((1, 513), np.int64)
    for wrong in ([ids, mask[:, :1]], [ids, mask[:, :5]], [ids[:, :3], mask], [long, long]):
        found: list[Array] = []
        with contextlib.suppress(Exception):  # either runtime has its own
            found = run(*wrong)
        assert all(np.isnan(array).all() for array in found)
