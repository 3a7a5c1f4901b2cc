"""Every graph in every precision, parsed and compiled by NVIDIA's own library for SM80."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import tensorrt_rtx

from ctclip_client.contract import (
    CLASSFINE,
    FINDINGS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    VISION,
    Model,
)
from ctclip_client.release.digest import sha256
from ctclip_export.engines.build import ENCODERS, BuiltEngine, build_engines
from ctclip_export.engines.layers import LayerReport, read_layers
from ctclip_export.engines.target import RTX

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_SLOW = [pytest.param(each, marks=pytest.mark.slow) for each in ("bf16", "int8")]
PRECISIONS = ["fp32", "fp16", *_SLOW]
LOW = ["fp16", _SLOW[0]]
Compiled = Callable[[str], list[BuiltEngine]]


def report_of(engines: list[BuiltEngine], model: Model) -> LayerReport:
    (engine,) = (engine for engine in engines if engine.model == model.name)
    assert engine.report is not None
    return engine.report


def islands(graph: onnx.GraphProto) -> set[str]:
    """Products that have to stay float32: the code search, and the projections into joint space."""
    makers = {output: node for node in graph.node for output in node.output}
    found = {makers[node.input[0]].name for node in graph.node if node.op_type == "ArgMax"}
    # Both encoders end in product -> length -> division.
    (marked,) = (makers[o.name] for o in graph.output if o.name.endswith("EMBEDDING"))
    embedding = makers[marked.input[1]]  # what the guard lets through where the row is good
    return found | {makers[embedding.input[0]].name}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_compiles(precision: str, compiled: Compiled) -> None:
    engines = {engine.model: engine for engine in compiled(precision)}
    head = [CLASSFINE] if precision == "int8" else []  # one for all: it is float32 in each
    assert set(engines) == {
        model.name for model in (VISION, TEXT_ENCODER, SCORE, FINDINGS, RELEVANCE, *head)
    }
    for engine in engines.values():
        assert engine.changed == "there is no model.rtx"
        assert engine.report is not None
        assert engine.report.layers
        assert engine.report.activation_bytes > 0
        low = [VISION.name] if precision == "int8" else [VISION.name, TEXT_ENCODER.name]
        assert engine.record.precision == (precision if engine.model in low else "fp32")


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize(("model", "blocks"), [(VISION, 4), (TEXT_ENCODER, 2)])
def test_every_attention_block_fuses(
    model: Model, blocks: int, precision: str, compiled: Compiled
) -> None:
    attention = report_of(compiled(precision), model).attention
    assert [block.fused for block in attention] == [True] * blocks
    assert {block.dtype for block in attention} == {DTYPES[precision]}


def test_float32_attention_is_found_but_not_fused(compiled: Compiled) -> None:
    """The report tells the two apart: the library has no float32 kernel for it."""
    report = report_of(compiled("fp32"), VISION)
    assert (len(report.attention), report.fused) == (4, 0)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("model", ENCODERS, ids=lambda model: model.name)
def test_islands_stay_float32_in_the_engine(
    model: Model, precision: str, compiled: Compiled, exported: Callable[[str], Path]
) -> None:
    report = report_of(compiled(precision), model)
    graph = onnx.load(exported(precision) / model.name / "1" / "model.onnx").graph
    assert set(report.products["float32"]) == islands(graph)
    assert set(report.products) == {"float32", DTYPES[precision]}
    assert islands(graph) <= set(report.float32_nodes)
    searches = {node.name for node in graph.node if node.op_type == "ArgMax"}
    assert searches <= set(report.float32_nodes)
    # A reformat that the builder puts between two layers would be a copy of the whole grid.
    assert {layer.kind for layer in report.layers if not layer.nodes} <= {"shape_call"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_guards_are_compiled(
    precision: str, compiled: Compiled, exported: Callable[[str], Path]
) -> None:
    """Every output comes out of the node that marks bad rows, in the engine, too."""
    for model in ENCODERS:
        graph = onnx.load(exported(precision) / model.name / "1" / "model.onnx").graph
        outputs = {tensor.name for tensor in model.outputs}
        marks = {node.name for node in graph.node if outputs & set(node.output)}
        assert [n.op_type for n in graph.node if n.name in marks] == ["Where"] * len(outputs)
        layers = report_of(compiled(precision), model).layers
        assert marks <= {name for layer in layers for name in layer.nodes}


def test_the_record_says_what_it_was_built_from(
    compiled: Compiled, exported: Callable[[str], Path]
) -> None:
    engine = compiled("fp16")[0]
    files = {file.name for file in engine.folder.iterdir()}
    assert files == {"model.rtx", "engine.json", "layers.json"}
    record = json.loads((engine.folder / "engine.json").read_text())
    assert {
        "onnx_sha256", "tensorrt_version", "gpu_name", "compute_capability", "profile",
        "precision", "plan_sha256",
    } <= set(record)  # fmt: skip
    graph = exported("fp16") / VISION.name / "1" / "model.onnx"
    assert record["onnx_sha256"] == sha256(graph)
    assert record["plan_sha256"] == sha256(engine.folder / "model.rtx")
    assert (record["gpu_name"], record["compute_capability"]) == ("", "8.0")
    assert record["profile"]["VOXELS"] == [[1, 1, 40, 60, 100]] * 2 + [[4, 1, 40, 60, 100]]
    layers = json.loads((engine.folder / "layers.json").read_text())
    assert len(layers["layers"]) == record["layers"]["layers"]


def test_a_matching_engine_is_kept(
    compiled: Compiled, exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the wheel of the bindings says of itself: the library is asked."""
    monkeypatch.setattr(tensorrt_rtx, "__version__", "9.9.9.9")
    before = compiled("fp32")
    times = [(engine.folder / "model.rtx").stat().st_mtime_ns for engine in before]
    again = build_engines(exported("fp32"), RTX, out=before[0].folder.parent)
    assert [engine.changed for engine in again] == [""] * len(before)
    assert [(engine.folder / "model.rtx").stat().st_mtime_ns for engine in again] == times


@pytest.mark.slow
def test_another_architecture_is_another_engine(exported: Callable[[str], Path], tmp_path: Path):
    for capability, reason in (
        ("8.6", "there is no model.rtx"),
        ("8.9", "it was built for another GPU architecture: 8.6, expected 8.9"),
    ):
        engines = build_engines(exported("fp32"), RTX, compute_capability=capability, out=tmp_path)
        assert {engine.changed for engine in engines} == {reason}
        assert {engine.record.compute_capability for engine in engines} == {capability}


def test_a_log_without_layers_gives_no_report(exported: Callable[[str], Path]) -> None:
    """Not an empty report, which would read as "nothing fused"."""
    graph = exported("fp32") / VISION.name / "1" / "model.onnx"
    assert read_layers(["Total Activation Memory: 5 bytes"], graph) is None
