"""Graphs and engines that must not be used: each is caught, by name, and nothing is placed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from ctclip_client.cli.program import main
from ctclip_client.contract import TEXT_ENCODER, VISION
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.engines import EngineRecord
from ctclip_export.engines import process as process_module
from ctclip_export.engines.build import build_engines
from ctclip_export.engines.compiler import Job
from ctclip_export.engines.gpu import Gpu
from ctclip_export.engines.graph_types import check_typed_graph
from ctclip_export.engines.key import Key, difference, require
from ctclip_export.engines.memory import check_memory
from ctclip_export.engines.process import compile_in_process
from ctclip_export.engines.profile import profile_of
from ctclip_export.engines.run import missing_engine
from ctclip_export.engines.target import RTX, TENSORRT, EngineError

Copied = Callable[..., Path]
Vouch = Callable[[Path], None]


def graph_of(repository: Path, model: str = VISION.name) -> Path:
    return repository / model / "1" / "model.onnx"


def edit(path: Path, change: Callable[[onnx.GraphProto], None]) -> None:
    proto = onnx.load(path)
    change(proto.graph)
    onnx.save(proto, path)


def insert(graph: onnx.GraphProto, reader: onnx.NodeProto, *made: onnx.NodeProto) -> None:
    """Put nodes in a row between a node and its first input."""
    at = list(graph.node).index(reader)
    for offset, node in enumerate(made):
        node.input.insert(0, made[offset - 1].output[0] if offset else reader.input[0])
        graph.node.insert(at + offset, node)
    reader.input[0] = made[-1].output[0]


def first(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def _decompose_norm(graph: onnx.GraphProto) -> None:
    """A piece of a LayerNormalization that a converter took apart, in float16."""
    insert(
        graph, first(graph, "LayerNormalization"),
        helper.make_node("Cast", [], ["n_half"], to=TensorProto.FLOAT16),
        helper.make_node("Sqrt", [], ["n_deviation"], name="deviation_of_norm"),
        helper.make_node("Cast", [], ["n_back"], to=TensorProto.FLOAT),
    )  # fmt: skip


def _search_in_half(graph: onnx.GraphProto) -> None:
    cast = helper.make_node("Cast", [], ["near"], to=TensorProto.FLOAT16)
    insert(graph, first(graph, "ArgMax"), cast)


def _einsum(graph: onnx.GraphProto) -> None:
    product = first(graph, "MatMul")
    product.op_type = "Einsum"
    product.attribute.append(helper.make_attribute("equation", "...ij,jk->...ik"))


def _uneven_zero_point(graph: onnx.GraphProto) -> None:
    node = first(graph, "QuantizeLinear")
    zero = next(tensor for tensor in graph.initializer if tensor.name == node.input[2])
    zero.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), zero.name))


def _rounded_search(graph: onnx.GraphProto) -> None:
    makers = {output: node for node in graph.node for output in node.output}
    tail = {"s_scale": np.array(0.01, np.float32), "s_zero": np.array(0, np.int8)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in tail.items())
    insert(
        graph, makers[first(graph, "ArgMax").input[0]],
        helper.make_node("QuantizeLinear", [*tail], ["s_low"]),
        helper.make_node("DequantizeLinear", [*tail], ["s_back"]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "change", "reason"),
    [
        (
            "fp16", _decompose_norm,
            r"'deviation_of_norm' \(Sqrt\) is a decomposed LayerNormalization in float16",
        ),
        ("fp16", _search_in_half, r"\(ArgMax\) searches the codebook in float16"),
        ("fp32", _einsum, r"\(Einsum\) is an Einsum, which no attention kernel matches"),
        ("int8", _uneven_zero_point, r"\(QuantizeLinear\) has a zero point other than 0"),
        ("int8", _rounded_search, r"\(MatMul\) searches the codebook in int8"),
    ],
)  # fmt: skip
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


def test_a_build_checks_what_it_is_given(copied: Copied, vouch: Vouch, tmp_path: Path) -> None:
    repository = copied()
    graph = graph_of(repository)
    edit(graph, _einsum)
    vouch(graph)
    with pytest.raises(EngineError, match=r"ctclip_vision: node .* is an Einsum"):
        build_engines(repository, RTX, out=tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


def test_a_graph_that_was_swapped_is_refused(copied: Copied, tmp_path: Path) -> None:
    repository = copied()
    graph = graph_of(repository, TEXT_ENCODER.name)
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


@pytest.fixture
def job(exported: Callable[[str], Path], tmp_path: Path) -> Job:
    graph = graph_of(exported("fp32"))
    return Job(
        RTX.name, VISION.name, str(graph), str(tmp_path / "model.rtx"), "8.0",
        profile_of(VISION, graph),
    )  # fmt: skip


def test_a_graph_that_the_library_does_not_take_is_said(job: Job, tmp_path: Path) -> None:
    odd = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> odd (float[N,2,2] VOXELS) => (float[N] Y) '
        "{ Y = Det (VOXELS) }"
    )
    odd.graph.node[0].name = "determinant"
    onnx.save(odd, tmp_path / "odd.onnx")
    with pytest.raises(EngineError, match="its parser refuses the graph: node 'determinant"):
        compile_in_process(replace(job, onnx=str(tmp_path / "odd.onnx")))


def test_a_compiler_that_is_killed_is_a_failure(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    suicide = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(process_module, "_COMMAND", (sys.executable, "-c", suicide))
    with pytest.raises(EngineError, match="the compiler was killed by SIGKILL") as caught:
        compile_in_process(job)
    assert "out of memory" in caught.value.remedy


def test_without_a_plan_there_is_nothing_to_run(exported: Callable[[str], Path]) -> None:
    graph = graph_of(exported("fp32"))
    assert missing_engine(graph).startswith("no model.plan in the repository")


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


def test_engines_that_do_not_fit_together_are_not_placed(
    key: Key, exported: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all that Triton holds beside them: its pool, ONNX Runtime, CUDA."""
    repository = exported("fp32")
    gpu = Gpu("NVIDIA A2", "8.6", 16 * 2**30, 0, "570")
    half = {"activation_bytes": 5 * 2**30, "weights_bytes": 2**30}
    record = EngineRecord(key.onnx_sha256, "11.2", gpu.name, "8.6", {}, "fp32", "", 0, layers=half)
    both = {VISION.name: record, TEXT_ENCODER.name: record}
    check_memory(both, gpu, repository)
    monkeypatch.setenv("CTCLIP_CUDA_POOL_BYTES", str(4 * 2**30))
    said = r"need 17\.\d GiB .*engines 12\.0, Triton's pool 4\.0, ONNX .*; NVIDIA A2 has 16\.0"
    with pytest.raises(EngineError, match=said) as caught:
        check_memory(both, gpu, repository)
    assert "CTCLIP_CUDA_POOL_BYTES" in caught.value.remedy
    monkeypatch.setenv("CTCLIP_CUDA_POOL_BYTES", "4G")
    with pytest.raises(InvalidInput, match="CTCLIP_CUDA_POOL_BYTES: got '4G'"):
        check_memory(both, gpu, repository)
