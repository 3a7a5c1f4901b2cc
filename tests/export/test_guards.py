"""Guards of the encoders: what they refuse, in which runtime, and that they leave no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray

from ctclip_export.checkpoint import Checkpoint
from ctclip_export.graphs.guards import guard_text, guard_vision, remove_guard
from ctclip_export.parity.runtimes import OPENVINO_OPTIONS, searched_tokens
from ctclip_export.repository.build import Export

from ..conftest import Golden

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], list[NDArray[Any]]]
Traced = Callable[..., onnx.ModelProto]
PRECISIONS = ["fp32", "fp16", "bf16"]
MODELS = ["ctclip_vision", "ctclip_text"]


@pytest.fixture(scope="module")
def traced(exported_in: Callable[[str], Export]) -> Traced:
    """What was exported, without its guard, for the caller to change."""

    def load(model: str, precision: str = "fp32") -> onnx.ModelProto:
        proto = onnx.load(exported_in(precision).repository / model / "1" / "model.onnx")
        remove_guard(proto)
        return proto

    return load


def guard(proto: onnx.ModelProto, checkpoint: Checkpoint) -> None:
    if proto.graph.input[0].name == "VOXELS":
        guard_vision(proto)
    else:
        config = checkpoint.model.config.text
        guard_text(proto, config.vocabulary_size, config.positions)


def by_onnx_runtime(proto: onnx.ModelProto) -> Run:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda inputs: session.run(None, inputs)


def by_openvino(proto: onnx.ModelProto) -> Run:
    core = openvino.Core()
    model = core.read_model(proto.SerializeToString())
    compiled = core.compile_model(model, "CPU", OPENVINO_OPTIONS)
    request = compiled.create_infer_request()
    return lambda inputs: [np.array(array) for array in request.infer(inputs).values()]


RUNTIMES = {"onnxruntime": by_onnx_runtime, "openvino": by_openvino}


def good_inputs(model: str, golden: Golden) -> Arrays:
    if model == "ctclip_vision":
        return {"VOXELS": golden.expected["b3_volume"].astype(np.float32)}
    ids = golden.expected["prompt_input_ids"].astype(np.int64)
    return {"INPUT_IDS": ids, "ATTENTION_MASK": (ids != 0).astype(np.int64)}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("model", MODELS)
def test_it_comes_and_goes_without_a_trace(
    model: str, precision: str, checkpoint: Checkpoint, traced: Traced
) -> None:
    proto = traced(model, precision)
    before = proto.SerializeToString()
    tensors = [*proto.graph.input, *proto.graph.output]
    outside = [tensor.SerializeToString() for tensor in tensors]
    remove_guard(proto)
    assert proto.SerializeToString() == before
    guard(proto, checkpoint)
    assert proto.SerializeToString() != before
    onnx.checker.check_model(proto, full_check=True)
    tensors = [*proto.graph.input, *proto.graph.output]
    assert [tensor.SerializeToString() for tensor in tensors] == outside
    if model == "ctclip_vision":
        assert searched_tokens(proto.graph)
    with pytest.raises(RuntimeError):
        guard(proto, checkpoint)
    remove_guard(proto)
    assert proto.SerializeToString() == before


def test_what_is_exported_has_one(repository: Path, checkpoint: Checkpoint) -> None:
    for model in MODELS:
        proto = onnx.load(repository / model / "1" / "model.onnx")
        served = proto.SerializeToString()
        remove_guard(proto)
        assert proto.SerializeToString() != served
        guard(proto, checkpoint)
        assert proto.SerializeToString() == served


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Callable[[onnx.ModelProto], Run]:
    return RUNTIMES[request.param]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_good_inputs_get_the_same_bits(
    model: str,
    precision: str,
    checkpoint: Checkpoint,
    traced: Traced,
    golden: Golden,
    runtime: Callable[[onnx.ModelProto], Run],
) -> None:
    proto = traced(model, precision)
    inputs = good_inputs(model, golden)
    expected = [array.tobytes() for array in runtime(proto)(inputs)]
    guard(proto, checkpoint)
    assert [array.tobytes() for array in runtime(proto)(inputs)] == expected


def put(array: NDArray[Any], *at: int, value: float) -> NDArray[Any]:
    changed = array.copy()
    changed[at] = value
    return changed


def refused(run: Run, wrong: list[Arrays], good: Arrays, words: str) -> None:
    """Each of them twice in a row, since a runtime may remember; then the good one as ever."""
    before = [array.tobytes() for array in run(good)]
    for inputs in wrong:
        for _ in range(2):
            with pytest.raises(Exception, match=words):
                run(inputs)
        assert [array.tobytes() for array in run(good)] == before


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_voxels_that_are_no_numbers(
    precision: str,
    checkpoint: Checkpoint,
    traced: Traced,
    golden: Golden,
    runtime: Callable[[onnx.ModelProto], Run],
) -> None:
    proto = traced("ctclip_vision", precision)
    guard_vision(proto)
    good = good_inputs("ctclip_vision", golden)
    voxels = good["VOXELS"]
    _, _, depth, height, width = voxels.shape
    places = [
        (0, 0, 0, 0, 0), (0, 0, 0, 0, 1), (1, 0, depth // 2, height // 2, width // 2),
        (2, 0, depth - 1, height - 1, width - 2), (2, 0, depth - 1, height - 1, width - 1),
    ]  # fmt: skip
    wrong = [
        {"VOXELS": put(voxels, *place, value=value)}
        for place in places
        for value in (np.nan, np.inf, -np.inf, 1e30)
    ]
    wrong.append({"VOXELS": np.full_like(voxels, np.nan)})
    run = runtime(proto)
    refused(run, wrong, good, "VOXELS: expected finite numbers, from -1 to 1")
    run({"VOXELS": voxels * 1000})  # odd, but numbers


def test_ids_that_are_no_words(
    checkpoint: Checkpoint,
    traced: Traced,
    golden: Golden,
    runtime: Callable[[onnx.ModelProto], Run],
) -> None:
    proto = traced("ctclip_text")
    guard(proto, checkpoint)
    good = good_inputs("ctclip_text", golden)
    ids, mask = good["INPUT_IDS"], good["ATTENTION_MASK"]
    count = checkpoint.model.config.text.vocabulary_size
    wrong = [
        good | {"INPUT_IDS": put(ids, *place, value=value)}
        for place in ((0, 0), (1, 3), (len(ids) - 1, ids.shape[1] - 1))
        for value in (-1, -count, count, 10**9, -(2**31), 2**31 - 1)
    ]
    long = np.ones((1, 513), np.int64)
    wrong.append({"INPUT_IDS": long, "ATTENTION_MASK": long})
    run = runtime(proto)
    refused(
        run, wrong, good, f"INPUT_IDS: expected rows of 1 to 512 ids, each from 0 to {count - 1}"
    )
    run(good | {"INPUT_IDS": put(ids, 0, 1, value=count - 1)})
    run({"INPUT_IDS": long[:, :512], "ATTENTION_MASK": long[:, :512]})
    run({"INPUT_IDS": ids[:1, :1], "ATTENTION_MASK": mask[:1, :1]})


def test_masks_that_are_none(
    checkpoint: Checkpoint,
    traced: Traced,
    golden: Golden,
    runtime: Callable[[onnx.ModelProto], Run],
) -> None:
    proto = traced("ctclip_text")
    guard(proto, checkpoint)
    good = good_inputs("ctclip_text", golden)
    ids, mask = good["INPUT_IDS"], good["ATTENTION_MASK"]
    last = len(mask) - 1
    wrong = [
        *({"ATTENTION_MASK": put(mask, row, value=0)} for row in (0, last)),
        *({"ATTENTION_MASK": put(mask, last, 2, value=value)} for value in (-1, 2, 10**9)),
        {"ATTENTION_MASK": np.zeros_like(mask)},
        # OpenVINO alone would broadcast the one row, and answer.
        {"ATTENTION_MASK": mask[:, :1]},
        {"ATTENTION_MASK": mask[:1]},
        {"ATTENTION_MASK": np.ones((ids.shape[1], len(ids)), np.int64)},
    ]
    words = "ATTENTION_MASK: expected 0 and 1 in the shape of INPUT_IDS, with a 1 in every row"
    refused(runtime(proto), [good | each for each in wrong], good, words)


def test_texts_without_tokens(checkpoint: Checkpoint, traced: Traced, golden: Golden) -> None:
    """The openvino backend refuses an axis of size 0 before the graph sees it."""
    proto = traced("ctclip_text")
    guard(proto, checkpoint)
    none = np.zeros((2, 0), np.int64)
    wrong = [{"INPUT_IDS": none, "ATTENTION_MASK": none}]
    refused(
        by_onnx_runtime(proto), wrong, good_inputs("ctclip_text", golden),
        "(INPUT_IDS|ATTENTION_MASK): expected",
    )  # fmt: skip


def test_a_trunk_of_another_kind_is_not_guarded_by_half(
    checkpoint: Checkpoint, traced: Traced
) -> None:
    proto = traced("ctclip_vision")
    (reshape,) = (n for n in proto.graph.node if "VOXELS" in n.input and n.op_type == "Reshape")
    reshape.op_type = "Expand"
    before = proto.SerializeToString()
    with pytest.raises(RuntimeError, match="VOXELS: expected one Reshape"):
        guard_vision(proto)
    assert proto.SerializeToString() == before
