"""Every graph against the reference and upstream's numbers, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ctclip_client.contract import Geometry
from ctclip_export.checkpoint import Checkpoint
from ctclip_export.graphs.preprocess import preprocess_gpu_graph, preprocess_graph
from ctclip_export.graphs.score import score_graph
from ctclip_export.model.preprocess import preprocess

from ..conftest import DATA, Golden

Arrays = dict[str, NDArray[Any]]
CASES = json.loads((DATA / "golden" / "preprocess" / "cases.json").read_text())[:6]


def session(model: onnx.ModelProto | Path) -> Callable[[Arrays], Arrays]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    run = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in run.get_outputs()]
    return lambda inputs: dict(zip(names, run.run(names, inputs), strict=True))


def scan(voxels: NDArray[np.int16], spacing_mm: Any, rescale: Any = (1.0, 0.0)) -> Arrays:
    return {
        "VOLUME": np.ascontiguousarray(voxels),
        "SPACING": np.array(spacing_mm, np.float64),
        "RESCALE": np.array(rescale, np.float32),
    }


@pytest.fixture(scope="module")
def published() -> Callable[[Arrays], Arrays]:
    return session(preprocess_graph(Geometry()))


@pytest.fixture(scope="module")
def for_gpus() -> Callable[[Arrays], Arrays]:
    return session(preprocess_gpu_graph(Geometry()))


@pytest.fixture(scope="module")
def upstream() -> Arrays:
    with np.load(DATA / "golden" / "preprocess" / "expected.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_preprocessing_is_upstreams(
    case: dict[str, Any],
    published: Callable[[Arrays], Arrays],
    for_gpus: Callable[[Arrays], Arrays],
    upstream: Arrays,
) -> None:
    name, xy = case["case"], case["xy_spacing_mm"]
    stored = upstream[f"{name}_stored"].transpose(2, 0, 1)  # (x, y, z) -> (z, x, y)
    inputs = scan(stored, (case["z_spacing_mm"], xy, xy), (case["slope"], case["intercept"]))
    voxels = published(inputs)["VOXELS"][0, 0]
    np.testing.assert_allclose(for_gpus(inputs)["VOXELS"][0, 0], voxels, rtol=0, atol=1e-6)
    z, x, y = upstream[f"{name}_index"].T
    np.testing.assert_allclose(voxels[z, x, y], upstream[f"{name}_value"], rtol=0, atol=2e-4)
    slices = voxels.reshape(len(voxels), -1)  # 55 million numbers are much in float64
    mean = np.mean([each.mean() for each in slices])
    square = np.mean([each @ each for each in slices]) / slices.shape[1]
    stats = mean, np.sqrt(square - mean**2), voxels.min(), voxels.max()
    np.testing.assert_allclose(stats, upstream[f"{name}_stats"], rtol=0, atol=2e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_content_box_is_upstreams(
    case: dict[str, Any], published: Callable[[Arrays], Arrays], upstream: Arrays
) -> None:
    """Water everywhere, so that padding and content cannot be confused."""
    name, xy = case["case"], case["xy_spacing_mm"]
    x, y, z = upstream[f"{name}_stored"].shape
    water = np.zeros((z, x, y), np.int16)
    voxels = published(scan(water, (case["z_spacing_mm"], xy, xy)))["VOXELS"][0, 0]
    first, last = upstream[f"{name}_content_box"]
    box = tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))
    assert not voxels[box].any()
    inside, outside = (np.count_nonzero(voxels == value) for value in (0, -1))
    assert inside == np.prod(last - first + 1)
    assert inside + outside == voxels.size


SMALL_GRID = Geometry((10, 20, 24), (3.0, 2.0, 1.5))


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.06, 19.9, allow_nan=False)] * 3),
    slope=st.sampled_from([1.0, 2.0, 0.5, -1.0]),
    intercept=st.sampled_from([0.0, -1024.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_preprocessing_is_the_reference_for_any_scan(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    slope: float,
    intercept: float,
    seed: int,
) -> None:
    voxels = np.random.default_rng(seed).integers(-2048, 3072, shape).astype(np.int16)
    runs = [session(form(SMALL_GRID)) for form in (preprocess_graph, preprocess_gpu_graph)]
    inputs = scan(voxels, spacing, (slope, intercept))
    targets = SMALL_GRID.target_spacing_mm
    sizes = [int(n * (s / t)) for n, s, t in zip(shape, spacing, targets, strict=True)]
    if 0 in sizes:
        for run in runs:
            with pytest.raises(Exception, match="every axis needs at least 1 voxel"):
                run(inputs)
        return
    expected = preprocess(voxels, spacing, (slope, intercept), SMALL_GRID).numpy()
    slice_by_slice, whole = (run(inputs)["VOXELS"] for run in runs)
    np.testing.assert_allclose(slice_by_slice, expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(whole, slice_by_slice, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 5, 5), (5, 0, 5), (5, 5, 0)])
def test_empty_axes_are_refused_in_words(
    shape: tuple[int, ...],
    published: Callable[[Arrays], Arrays],
    for_gpus: Callable[[Arrays], Arrays],
) -> None:
    for run in (published, for_gpus):
        with pytest.raises(Exception, match="VOLUME: every axis needs at least 1 voxel"):
            run(scan(np.zeros(shape, np.int16), (1.5, 0.75, 0.75)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0, 0.0, 0.05, 20.0])
def test_absurd_spacings_are_refused(
    bad: float, published: Callable[[Arrays], Arrays], for_gpus: Callable[[Arrays], Arrays]
) -> None:
    for axis in range(3):
        values = [1.5, 0.75, 0.75]
        values[axis] = bad
        for run in (published, for_gpus):
            with pytest.raises(Exception, match="SPACING: expected three finite numbers"):
                run(scan(np.zeros((9, 9, 9), np.int16), values))


@pytest.mark.parametrize(
    "rescale",
    [(0, 0), (np.nan, 0), (np.inf, 0), (-np.inf, 0), (1, np.nan), (1, np.inf), (1, -np.inf)],
)
def test_absurd_rescales_are_refused(
    rescale: tuple[float, float],
    published: Callable[[Arrays], Arrays],
    for_gpus: Callable[[Arrays], Arrays],
) -> None:
    for run in (published, for_gpus):
        with pytest.raises(Exception, match="RESCALE: expected a finite slope other than 0"):
            run(scan(np.zeros((9, 9, 9), np.int16), (1.5, 0.75, 0.75), rescale))


def test_no_intermediate_grows_with_the_input() -> None:
    """Memory stays bounded because nothing of the volume's size is ever computed: its one user
    outside the loop reads its shape, and inside single slices are taken out of it.
    """
    graph = preprocess_graph(Geometry()).graph
    assert [node.op_type for node in graph.node if "VOLUME" in node.input] == ["Shape"]
    (loop,) = (node for node in graph.node if node.op_type == "Scan")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    users = [node for node in body.node if "VOLUME" in node.input]
    assert [node.op_type for node in users] == ["Gather", "Gather"]
    scalars = {value.name for value in body.input if not value.type.tensor_type.shape.dim}
    assert all(node.input[1] in scalars for node in users)

    # For GPUs: lines along y are taken out of it, for the z and x of the model's grid, as long as
    # that grid reaches.
    graph = preprocess_gpu_graph(Geometry()).graph
    users = [node for node in graph.node if "VOLUME" in node.input]
    assert [node.op_type for node in users] == ["Shape", "Slice"]
    (shaped,) = (node for node in graph.node if users[1].output[0] in node.input)
    lines = shaped.output[0]
    assert {node.op_type for node in graph.node if lines in node.input} == {"Gather"}
    assert not any(node.op_type in ("Scan", "Loop") for node in graph.node)


@pytest.mark.parametrize("columns", [60_000, 60_001, 500])
def test_a_gpu_takes_no_more_columns_than_it_shows(columns: int) -> None:
    """The grid's 24 columns of 1.5 mm are 600 of 0.06 mm, whatever lies beside them."""
    graph = preprocess_gpu_graph(SMALL_GRID)
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info("planes"))
    voxels = np.random.default_rng(columns).integers(-1000, 1000, (3, 3, columns)).astype(np.int16)
    inputs = scan(voxels, (19.9, 19.9, 0.06))
    got = session(graph)(inputs)
    assert got["planes"].shape[:2] == SMALL_GRID.volume_shape[:2]
    assert got["planes"].shape[2] <= min(601, columns)
    expected = session(preprocess_graph(SMALL_GRID))(inputs)["VOXELS"]
    np.testing.assert_allclose(got["VOXELS"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_vision(batch: int, golden: Golden, repository: Path) -> None:
    run = session(repository / "ctclip_vision" / "1" / "model.onnx")
    got = run({"VOXELS": golden.expected[f"b{batch}_volume"]})
    np.testing.assert_array_equal(got["CODES"], golden.expected[f"b{batch}_codes"])
    assert got["CODES"].dtype == np.int32
    np.testing.assert_allclose(
        got["IMAGE_EMBEDDING"], golden.expected[f"b{batch}_image_latent"], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("texts", ["prompt", "report"])
def test_text(texts: str, golden: Golden, repository: Path) -> None:
    run = session(repository / "ctclip_text" / "1" / "model.onnx")
    ids = golden.expected[f"{texts}_input_ids"].astype(np.int64)
    got = run({"INPUT_IDS": ids, "ATTENTION_MASK": (ids != 0).astype(np.int64)})
    expected = golden.expected[f"{texts}_text_latent"]
    np.testing.assert_allclose(got["TEXT_EMBEDDING"], expected, rtol=0, atol=1e-5)


def test_padding_changes_nothing(golden: Golden, repository: Path) -> None:
    run = session(repository / "ctclip_text" / "1" / "model.onnx")
    ids = golden.expected["prompt_input_ids"].astype(np.int64)
    longest = int((ids != 0).sum(axis=1).max())

    def embed(width: int) -> NDArray[np.float32]:
        padded = np.zeros((len(ids), width), np.int64)
        padded[:, :longest] = ids[:, :longest]
        mask = (padded != 0).astype(np.int64)
        return run({"INPUT_IDS": padded, "ATTENTION_MASK": mask})["TEXT_EMBEDDING"]

    for width in (longest + 1, 64, 512):
        np.testing.assert_allclose(embed(width), embed(longest), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("volumes", "pairs"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 5), (2, 18)])
def test_scores_are_a_full_product(
    volumes: int, pairs: int, checkpoint: Checkpoint, repository: Path
) -> None:
    """Upstream multiplies row by row: for as many volumes as texts it compares the wrong ones."""
    random = np.random.default_rng(volumes * 100 + pairs)
    images = random.standard_normal((volumes, 32)).astype(np.float32)
    texts = random.standard_normal((2 * pairs, 32)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    run = session(repository / "ctclip_score" / "1" / "model.onnx")
    got = run({"IMAGE_EMBEDDING": images, "TEXT_EMBEDDING": texts})
    scale = float(checkpoint.model.temperature.exp())
    for v in range(volumes):
        for p in range(pairs):
            present, absent = (scale * float(images[v] @ texts[2 * p + k]) for k in (0, 1))
            np.testing.assert_allclose(got["LOGITS"][v, p], [present, absent], rtol=1e-5, atol=1e-5)
            probability = 1 / (1 + np.exp(absent - present))
            np.testing.assert_allclose(got["PROBABILITIES"][v, p], probability, rtol=0, atol=1e-5)


def test_findings_are_the_golden_scores(golden: Golden, repository: Path) -> None:
    run = session(repository / "ctclip_findings" / "1" / "model.onnx")
    got = run({"IMAGE_EMBEDDING": golden.expected["b1_image_latent"]})
    for name, expected in (
        ("LOGITS", "zero_shot_logits"),
        ("PROBABILITIES", "zero_shot_probabilities"),
    ):
        np.testing.assert_allclose(got[name][0], golden.expected[expected], rtol=0, atol=1e-5)


def test_scores_of_odd_inputs() -> None:
    run = session(score_graph(temperature=2.0, embedding_size=4))
    unit = np.eye(4, dtype=np.float32)
    longer = run({"IMAGE_EMBEDDING": 7 * unit[:1], "TEXT_EMBEDDING": 3 * unit[:2]})
    np.testing.assert_allclose(longer["LOGITS"][0, 0], [np.exp(2.0), 0], rtol=1e-6)
    nothing = run({"IMAGE_EMBEDDING": 0 * unit[:1], "TEXT_EMBEDDING": unit[:2]})
    assert np.isfinite(nothing["PROBABILITIES"]).all()
    with pytest.raises(Exception, match="rows must come in pairs"):
        run({"IMAGE_EMBEDDING": unit[:1], "TEXT_EMBEDDING": unit[:3]})
    for bad in (np.nan, np.inf, 1e30):
        images, texts = unit[:2].copy(), unit[:2].copy()
        images[1, 2] = texts[0, 3] = bad
        with pytest.raises(Exception, match="IMAGE_EMBEDDING: expected finite rows"):
            run({"IMAGE_EMBEDDING": images, "TEXT_EMBEDDING": unit[:2]})
        with pytest.raises(Exception, match=r"TEXT_EMBEDDING.*: expected finite rows"):
            run({"IMAGE_EMBEDDING": unit[:1], "TEXT_EMBEDDING": texts})
    for empty, name in ((0, "IMAGE_EMBEDDING"), (1, "TEXT_EMBEDDING")):
        with pytest.raises(Exception, match=f"{name}.*at least one"):
            run({"IMAGE_EMBEDDING": unit[:empty], "TEXT_EMBEDDING": unit[: 2 - 2 * empty]})


def test_graphs_keep_whole_what_runtimes_fuse(repository: Path) -> None:
    graph = onnx.load(repository / "ctclip_vision" / "1" / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    blocks = 4
    # Two in each block, one after each transformer, two around the patch projection.
    assert operators.count("LayerNormalization") == 2 * blocks + 2 + 2
    assert operators.count("Gelu") == blocks
    assert operators.count("Softmax") == blocks
    assert "Einsum" not in operators
    assert "Erf" not in operators


def test_graphs_tell_nothing_of_the_machine(repository: Path) -> None:
    for path in repository.glob("*/1/model.onnx"):
        content = path.read_bytes()
        for secret in (str(Path.home()), str(Path.cwd()), "site-packages", ".py"):
            assert secret.encode() not in content, (path.parent.parent.name, secret)


def test_reference_preprocessing_is_upstreams(upstream: Arrays) -> None:
    case = CASES[3]
    stored = upstream["c3_stored"].transpose(2, 0, 1)
    xy = case["xy_spacing_mm"]
    voxels = preprocess(
        stored, (case["z_spacing_mm"], xy, xy), (case["slope"], case["intercept"]), Geometry()
    )
    z, x, y = torch.from_numpy(upstream["c3_index"].astype(np.int64)).unbind(dim=1)
    expected = torch.from_numpy(upstream["c3_value"])
    torch.testing.assert_close(voxels[0, 0, z, x, y], expected, rtol=0, atol=1e-6)
