"""The drop-in's parts that need no server."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import ctclip_server
from ctclip_server.backends.shared.batching import can_be_joined, join, split
from ctclip_server.backends.shared.onnx_header import Header, read_header, refusal
from ctclip_server.backends.shared.options import read_settings
from ctclip_server.backends.shared.signature import MismatchError


def test_the_package_offers_one_name():
    assert ctclip_server.__all__ == ["EmbeddedTriton"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ctclip_server.nothing  # noqa: B018


def test_the_header_is_read_as_onnx_reads_it(tmp_path, tiny):
    path = tiny["gather"]("table", opset=19, ir_version=9).write(tmp_path)
    model = onnx.load(path)
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 3))
    onnx.save(model, path)
    assert read_header(path) == Header(9, {"": 19, "com.example": 3})


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08", b"\xff" * 40, b"\x3a\x7f"])
def test_what_is_no_model_is_said(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"empty|truncated|not a|not an"):
        read_header(path)


def test_versions_that_production_knows_pass():
    assert refusal(Header(10, {"": 20, "com.microsoft": 1})) is None
    assert refusal(Header(13, {"ai.onnx": 26, "ai.onnx.ml": 99})) is None
    assert "27" in refusal(Header(10, {"ai.onnx": 27}))


def test_a_single_request_is_not_copied():
    array = np.arange(6).reshape(2, 3)
    assert join([{"X": array}])["X"] is array
    parts = split({"Y": array}, [1, 1])
    assert all(np.shares_memory(part["Y"], array) for part in parts)


def test_requests_of_other_shapes_are_not_joined():
    first = {"X": np.zeros((1, 3)), "M": np.zeros((1, 3))}
    assert can_be_joined([first, {"X": np.zeros((2, 3)), "M": np.zeros((2, 3))}])
    assert not can_be_joined([first, {"X": np.zeros((1, 4)), "M": np.zeros((1, 4))}])
    assert not can_be_joined([first, {"X": np.zeros((1, 3))}])


def test_an_output_that_is_not_batched_is_refused():
    with pytest.raises(ValueError, match="first axis is not the batch"):
        split({"Y": np.zeros((1, 3))}, [1, 1])


def _parameters(**values):
    return {
        "parameters": {name: {"string_value": value} for name, value in values.items()},
    }


def test_settings_are_read_as_the_cpp_backend_reads_them():
    config = _parameters(
        intra_op_thread_count="3", inter_op_thread_count="0", execution_mode="1",
        enable_mem_arena="0", enable_mem_pattern="true", gpu_mem_limit="1", unheard_of="1",
    )  # fmt: skip
    config["parameters"]["memory.enable_memory_arena_shrinkage"] = {"string_value": "cpu:0"}
    config["optimization"] = {"graph": {"level": 2}}
    settings = read_settings(config, "CPU")
    assert settings.intra_op_threads == 3
    assert settings.inter_op_threads is None
    assert settings.parallel
    assert settings.memory_arena is False
    assert settings.memory_pattern is True
    assert settings.level == "none"
    assert settings.run_entries == {"memory.enable_memory_arena_shrinkage": "cpu:0"}
    assert [sentence.split(":")[0] for sentence in settings.ignored] == [
        "gpu_mem_limit",
        "unheard_of",
    ]


@pytest.mark.parametrize("value", ["2", "yes", ""])
def test_a_wrong_truth_value_is_refused(value):
    with pytest.raises(MismatchError, match="enable_mem_arena"):
        read_settings(_parameters(enable_mem_arena=value), "CPU")
