"""Graphs and engines that must not be used: each is caught, by name, and nothing is placed."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ctclip_client.cli.program import main
from ctclip_client.contract import TEXT_ENCODER, VISION
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.engines import EngineRecord
from ctclip_export.engines.build import build_engines, check_memory
from ctclip_export.engines.compiler import Job
from ctclip_export.engines.gpu import Gpu
from ctclip_export.engines.graph_types import check_typed_graph
from ctclip_export.engines.key import Key, difference, require
from ctclip_export.engines.process import compile_in_process
from ctclip_export.engines.profile import profile_of
from ctclip_export.engines.run import checked_engine, missing_engine
from ctclip_export.engines.target import RTX, TENSORRT, EngineError
from ctclip_export.graphs.guards import remove_guard

Copied = Callable[..., Path]
Vouch = Callable[[Path], None]


def graph_of(repository: Path, model: str = VISION.name) -> Path:
    return repository / model / "1" / "model.onnx"


def edit(path: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    proto = onnx.load(path)
    change(proto.graph)
    onnx.save(proto, path)


def _decompose_norm(graph: onnx.GraphProto) -> None:
    """A LayerNormalization as a converter that takes operators apart would leave it, in float16."""
    norm = next(node for node in graph.node if node.op_type == "LayerNormalization")
    at = list(graph.node).index(norm)
    source, gain = norm.input[0], norm.input[1]
    last = int(onnx.helper.get_node_attr_value(norm, "axis"))
    weights = next(tensor for tensor in graph.initializer if tensor.name == gain)
    half = numpy_helper.from_array(numpy_helper.to_array(weights).astype(np.float16), "gain_half")
    axes = numpy_helper.from_array(np.array([last], np.int64), "norm_axes")
    epsilon = numpy_helper.from_array(np.array(1e-5, np.float16), "norm_epsilon")
    graph.initializer.extend([half, axes, epsilon])
    made = [
        helper.make_node("Cast", [source], ["n_half"], to=TensorProto.FLOAT16),
        helper.make_node("ReduceMean", ["n_half", "norm_axes"], ["n_mean"], name="mean_of_norm"),
        helper.make_node("Sub", ["n_half", "n_mean"], ["n_centred"]),
        helper.make_node("Mul", ["n_centred", "n_centred"], ["n_squares"]),
        helper.make_node("ReduceMean", ["n_squares", "norm_axes"], ["n_variance"]),
        helper.make_node("Add", ["n_variance", "norm_epsilon"], ["n_safe"]),
        helper.make_node("Sqrt", ["n_safe"], ["n_deviation"]),
        helper.make_node("Div", ["n_centred", "n_deviation"], ["n_unit"]),
        helper.make_node("Mul", ["n_unit", "gain_half"], ["n_scaled"]),
        helper.make_node("Cast", ["n_scaled"], [norm.output[0]], to=TensorProto.FLOAT),
    ]
    graph.node.remove(norm)
    for offset, node in enumerate(made):
        graph.node.insert(at + offset, node)


def test_a_decomposed_norm_in_fp16_is_named(copied: Copied, vouch: Vouch, tmp_path: Path) -> None:
    repository = copied("fp16")
    graph = graph_of(repository)
    edit(graph, _decompose_norm)
    vouch(graph)
    with pytest.raises(
        EngineError, match=r"node 'mean_of_norm' \(ReduceMean\) is a decomposed LayerNorm"
    ):
        build_engines(repository, RTX, out=tmp_path / "engines")
    assert not list((tmp_path / "engines").glob("**/model.rtx"))


def _search_in_half(graph: onnx.GraphProto) -> None:
    search = next(node for node in graph.node if node.op_type == "ArgMax")
    at = list(graph.node).index(search)
    cast = helper.make_node("Cast", [search.input[0]], ["near"], to=TensorProto.FLOAT16)
    search.input[0] = "near"
    graph.node.insert(at, cast)


def _einsum(graph: onnx.GraphProto) -> None:
    product = next(node for node in graph.node if node.op_type == "MatMul")
    product.op_type = "Einsum"
    product.attribute.append(helper.make_attribute("equation", "...ij,jk->...ik"))


def _uneven_zero_point(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "QuantizeLinear")
    zero = next(tensor for tensor in graph.initializer if tensor.name == node.input[2])
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))


def _rounded_search(graph: onnx.GraphProto) -> None:
    makers = {output: node for node in graph.node for output in node.output}
    (search,) = (makers[node.input[0]] for node in graph.node if node.op_type == "ArgMax")
    at = list(graph.node).index(search)
    scale = numpy_helper.from_array(np.array(0.01, np.float32), "s_scale")
    zero = numpy_helper.from_array(np.array(0, np.int8), "s_zero")
    graph.initializer.extend([scale, zero])
    tail = ["s_scale", "s_zero"]
    made = [
        helper.make_node("QuantizeLinear", [search.input[0], *tail], ["s_low"]),
        helper.make_node("DequantizeLinear", ["s_low", *tail], ["s_back"]),
    ]
    search.input[0] = "s_back"
    for offset, node in enumerate(made):
        graph.node.insert(at + offset, node)


@pytest.mark.parametrize(
    ("precision", "change", "reason"),
    [
        ("fp16", _search_in_half, r"\(ArgMax\) searches the codebook in float16"),
        ("fp32", _einsum, r"\(Einsum\) is an Einsum, which no attention kernel matches"),
        ("int8", _uneven_zero_point, r"\(QuantizeLinear\) has a zero point other than 0"),
        ("int8", _rounded_search, r"\(MatMul\) searches the codebook in int8"),
    ],
)
def test_what_low_precision_must_not_do(
    precision: str, change: Callable[[onnx.GraphProto], None], reason: str, copied: Copied
) -> None:
    graph = graph_of(copied(precision))
    check_typed_graph(graph, precision)
    edit(graph, change)
    with pytest.raises(EngineError, match=reason):
        check_typed_graph(graph, precision)


@pytest.mark.parametrize(
    ("held", "promised", "reason"),
    [
        ("fp32", "fp16", "the release is fp16, but nothing in its graph computes in float16"),
        ("fp16", "fp32", "computes in float16, but the release is fp32"),
        ("fp16", "bf16", "the release is bf16, but nothing in its graph computes in bfloat16"),
        ("int8", "fp32", "rounds to int8, but the release is fp32"),
        ("fp32", "int8", "the release is int8, but nothing in its graph is"),
        ("fp16", "int8", "the release is int8, but nothing in its graph is"),
    ],
)
def test_a_precision_that_is_not_the_promised_one(
    held: str, promised: str, reason: str, exported: Callable[[str], Path]
) -> None:
    with pytest.raises(EngineError, match=reason):
        check_typed_graph(graph_of(exported(held)), promised)


def test_a_graph_that_was_swapped_is_refused(copied: Copied, tmp_path: Path) -> None:
    repository = copied()
    graph = graph_of(repository, TEXT_ENCODER.name)
    edit(graph, lambda g: g.initializer[0].CopyFrom(g.initializer[0]))
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(EngineError, match=r"ctclip_text: model\.onnx is not the file that prov"):
        build_engines(repository, RTX, out=tmp_path / "engines")


# --- engines that do not belong here ---


@pytest.fixture
def key(exported: Callable[[str], Path]) -> Key:
    graph = graph_of(exported("fp16"))
    return Key(sha256(graph), "11.2.0", "8.0", profile_of(VISION, graph), "fp16")


@pytest.fixture
def built(key: Key, tmp_path: Path) -> Path:
    """A folder with a plan and its record, as a build for an A100 leaves it."""
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"a plan")
    EngineRecord(
        key.onnx_sha256, key.tensorrt_version, "NVIDIA A100", key.compute_capability, key.profile,
        key.precision, sha256(plan), plan.stat().st_size,
    ).write(tmp_path)  # fmt: skip
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_right_engine_is_taken(built: Path, key: Key) -> None:
    assert difference(built, "model.plan", key) == ""
    assert require(built, "model.plan", key).gpu_name == "NVIDIA A100"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"onnx_sha256": "0" * 64}, "it was built from another ONNX file: 0000000000000000…"),
        ({"tensorrt_version": "11.1.0"}, "by another TensorRT: 11.1.0, expected 11.2.0"),
        ({"compute_capability": "9.0"}, "for another GPU architecture: 9.0, expected 8.0"),
        ({"precision": "fp32"}, "it was of another precision: fp32, expected fp16"),
        ({"profile": {"VOXELS": [[1]]}}, "it was built for other shapes"),
        ({"plan_sha256": "0" * 64}, "is not the file that engine.json describes"),
        ({"plan_bytes": 7}, "model.plan is truncated: 6 of 7 bytes"),
        ({"onnx_sha256": "0" * 64}, "built from another ONNX file"),
        ({"onnx_sha256": None}, "onnx_sha256: got null, expected text"),
    ],
)
def test_any_difference_refuses_it(
    changes: dict[str, object], reason: str, built: Path, key: Key
) -> None:
    rewrite(built, **changes)
    with pytest.raises(EngineError) as caught:
        require(built, "model.plan", key)
    assert reason in caught.value.cause
    assert "ctclip build-engines" in caught.value.remedy


def test_a_plan_without_a_record_is_refused(built: Path, key: Key) -> None:
    (built / "engine.json").unlink()
    with pytest.raises(EngineError, match=r"engine\.json: missing"):
        require(built, "model.plan", key)


def test_an_engine_of_another_graph_is_built_anew(copied: Copied, tmp_path: Path) -> None:
    repository, out = copied(), tmp_path / "engines"
    build_engines(repository, RTX, out=out)
    rewrite(out / VISION.name, onnx_sha256="f" * 64)
    (out / TEXT_ENCODER.name / "model.rtx").write_bytes(b"cut short")
    changed = {e.model: e.changed for e in build_engines(repository, RTX, out=out)}
    assert changed.pop(VISION.name).startswith("it was built from another ONNX file: ffff")
    assert changed.pop(TEXT_ENCODER.name).startswith("model.rtx is truncated: 9 of")
    assert set(changed.values()) == {""}


# --- builds that cannot be, or do not end well ---


def test_a_compiler_that_is_killed_is_a_failure(copied: Copied, tmp_path: Path) -> None:
    graph = graph_of(copied("fp32"))
    job = Job(
        RTX.name, str(graph), str(tmp_path / "model.rtx"), str(tmp_path / "outcome.json"), "8.0",
        profile_of(VISION, graph), 2**30, "",
    )  # fmt: skip
    with pytest.raises(EngineError, match="its parser refuses the graph: node 'guard_"):
        compile_in_process(job, lambda _: None)
    proto = onnx.load(graph)
    remove_guard(proto)
    onnx.save(proto, graph)

    def kill(process: int) -> None:
        threading.Timer(0.3, os.kill, (process, signal.SIGKILL)).start()

    with pytest.raises(EngineError, match="the compiler was killed by SIGKILL") as caught:
        compile_in_process(job, lambda _: None, kill)
    assert "out of memory" in caught.value.remedy


def test_without_a_plan_there_is_nothing_to_run(exported: Callable[[str], Path]) -> None:
    graph = graph_of(exported("fp32"))
    assert missing_engine(graph).startswith("no model.plan in the repository")
    with pytest.raises(InvalidInput, match=r"ctclip_vision has no model\.plan"):
        checked_engine(VISION, graph, "fp32")


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_it_says_how_to_get_it(copied: Copied) -> None:
    repository = copied()
    before = sorted(repository.rglob("*"))
    with pytest.raises(InvalidInput, match="No module named 'tensorrt'") as caught:
        build_engines(repository, TENSORRT)
    assert "pip install tensorrt" in caught.value.remedy
    assert sorted(repository.rglob("*")) == before
    (graph_of(repository).parent / "model.plan").write_bytes(b"a plan from elsewhere")
    assert "No module named 'tensorrt'" in missing_engine(graph_of(repository))


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--target", "tensorrt-rtx"], 2, "needs --out DIR"),
        (["--target", "tensorrt-rtx", "--out", "{repository}/e"], 2, "lies in the repository"),
        (
            ["--target", "tensorrt-rtx", "--out", "{tmp}", "--compute-capability", "9.0"], 2,
            "cannot build for '9.0'",
        ),
        (
            ["--target", "tensorrt-rtx", "--out", "{tmp}", "--repository", "/nowhere"], 2,
            "no folder",
        ),
    ],
)  # fmt: skip
def test_usage(
    flags: list[str],
    code: int,
    message: str,
    exported: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    repository = exported("fp32")
    filled = [flag.format(repository=repository, tmp=tmp_path) for flag in flags]
    assert main(["build-engines", "--repository", str(repository), *filled]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_another_folder_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no ensemble of"):
        build_engines(tmp_path, RTX, out=tmp_path.parent / "engines")


def test_engines_that_do_not_fit_together_are_not_placed(key: Key) -> None:
    gpu = Gpu("NVIDIA A2", "8.6", 16 * 2**30, 0, "570")
    half = {"activation_bytes": 5 * 2**30, "weights_bytes": 2**30}
    record = EngineRecord(key.onnx_sha256, "11.2", gpu.name, "8.6", {}, "fp32", "", 0, layers=half)
    check_memory([record, record], gpu)
    with pytest.raises(EngineError, match=r"need 18\.0 GiB of GPU memory together; NVIDIA A2 has"):
        check_memory([record] * 3, gpu)
