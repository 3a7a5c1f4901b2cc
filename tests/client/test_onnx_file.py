"""The versions of an ONNX file, and what production's ONNX Runtime makes of them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from ctclip_client.release.onnx_file import Versions, read_versions


def test_they_are_read_as_onnx_reads_them(tmp_path: Path) -> None:
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2,)) for name in "XY"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["X"], ["Y"])], "any", tensors[:1], tensors[1:]
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.example", 3)]
    onnx.save(helper.make_model(graph, ir_version=9, opset_imports=opsets), tmp_path / "a.onnx")
    assert read_versions(tmp_path / "a.onnx") == Versions(9, {"": 19, "com.example": 3})


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08", b"\xff" * 40, b"\x3a\x7f"])
def test_what_is_no_model_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"empty|truncated|not a|not an"):
        read_versions(tmp_path / "model.onnx")


def test_what_production_knows() -> None:
    assert Versions(10, {"": 20, "com.microsoft": 1}).unknown_to_production() == ""
    assert Versions(13, {"ai.onnx": 26, "ai.onnx.ml": 99}).unknown_to_production() == ""
    assert "opset 27" in Versions(10, {"ai.onnx": 27}).unknown_to_production()
    assert "IR 14" in Versions(14, {"": 20}).unknown_to_production()
