"""A linear head in the place of ClassFine's: its file, and for which checkpoint it is served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ctclip_client.cli.program import main
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.linear_head import read_linear_head
from ctclip_export.checkpoint import TextModel, load_checkpoint
from ctclip_export.checkpoint.linear_head import read_head_file
from ctclip_export.graphs.score import classfine_graph

from ..conftest import Golden
from ..linear_heads import CLASSES, GEOMETRY, drawn_head, write_head


def test_it_is_read_as_it_was_written(golden: Golden, tmp_path: Path) -> None:
    head = drawn_head(golden.checkpoint)
    assert read_linear_head(write_head(tmp_path / "head.json", head)) == head


def test_its_graph_is_one_linear_layer_and_a_sigmoid(
    golden: Golden, text_model: TextModel, tmp_path: Path
) -> None:
    """By float64, on embeddings below 0 too, which ClassFine's head would not see."""
    head = drawn_head(golden.checkpoint)
    file = read_head_file(write_head(tmp_path / "head.json", head))
    loaded = load_checkpoint(golden.checkpoint, text_model, golden.geometry, head=file)
    assert (loaded.variant, loaded.classes) == ("v2", CLASSES)
    assert loaded.classifier is not None
    images = np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    graph = classfine_graph(*head.arrays())
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (served,) = session.run(None, {"IMAGE_EMBEDDING": images})
    centred = images.astype(np.float64) - np.array(head.mean)
    logits = centred @ np.array(head.weight).T + np.array(head.bias)
    expected = 1 / (1 + np.exp(-logits))
    reference = loaded.classifier(torch.from_numpy(images)).numpy()
    for got in (served, reference):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trained_on": {"checkpoint": "other.pt", "checkpoint_sha256": "ab" * 32}},
         r"of other.pt \(SHA-256 abababababababab…\), and --checkpoint is ctclip.pt \("),
        ({"trained_on": {"geometry": "40x60x100 at 3,1,1 mm"}},
         f"of 40x60x100 at 3,1,1 mm, and this export's are of {GEOMETRY}"),
        ({"embedding_size": 31}, "for embeddings of 31 numbers, the checkpoint's have 32"),
    ],
)  # fmt: skip
def test_a_head_for_other_embeddings_is_refused(
    change: dict[str, Any], message: str, golden: Golden, text_model: TextModel, tmp_path: Path
) -> None:
    head = drawn_head(golden.checkpoint, change.get("embedding_size", 32))
    head = replace(head, trained_on=replace(head.trained_on, **change.get("trained_on", {})))
    file = read_head_file(write_head(tmp_path / "head.json", head))
    with pytest.raises(InvalidInput, match=message):
        load_checkpoint(golden.checkpoint, text_model, golden.geometry, head=file)


def test_random_weights_of_the_embeddings_stay_so(
    golden: Golden, text_model: TextModel, tmp_path: Path
) -> None:
    head = drawn_head(golden.checkpoint)
    head = replace(head, trained_on=replace(head.trained_on, random_weights=True))
    file = read_head_file(write_head(tmp_path / "head.json", head))
    assert load_checkpoint(
        golden.checkpoint, text_model, golden.geometry, head=file
    ).random_weights  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ctclip-tail"}, "kind: got 'ctclip-tail', version 1, expected 'ctclip-head', 1"),
        ({"version": 2}, "version 2, expected"),
        ({"classes": []}, "classes: got 0"),
        ({"classes": ["a", "b", " "]}, "classes: got ' '"),
        ({"classes": ["a", "b", "b "]}, "classes: got 'b '"),
        ({"classes": ["a", "b", "c" * 10_000_000]}, "classes: got 'ccc.*a name of 1 to 200"),
        ({"classes": ["a", "b", "a"]}, "a name is there twice"),
        ({"classes": ["a", "b", "\x1b[31m"]}, r"classes: got '\\x1b\[31m'"),
        ({"bias": [0.0, 1.0]}, "got 3 and 2 rows, expected 3"),
        ({"weight": [[0.0] * 31] * 3}, r"weight\[0\]: got 31 numbers, expected 32"),
        ({"mean": [0.0] * 33}, "mean: got 33 numbers, expected 32"),
        ({"weight": [[1e39] * 32] * 3}, "too large for float32"),
        ({"weight": [["1"] * 32] * 3}, r"weight\[0\]\[0\]: got \"1\", expected a finite number"),
        ({"bias": [0.0, 1.0, float("nan")]}, r"bias\[2\]: got NaN"),
        ({"bias": [0.0, 1.0, 10**400]}, r"bias\[2\]: got 1000.*expected a finite number"),
        ({"trained_on": None}, "trained_on: got null, expected an object"),
        ({"trained_on": {"release": "\ud800"}}, r"trained_on.release: got '\\ud800', expected a"),
        ({"trained_on": {"release": ""}}, "trained_on.release: got ''"),
        ({"trained_on": {"checkpoint": "c" * 10_000_000}}, "trained_on.checkpoint: got 'cccc"),
        ({"trained_on": {"precision": "\x1b[31m"}}, r"trained_on.precision: got '\\x1b"),
        ({"trained_on": {"geometry": "a\u202eb"}}, r"trained_on.geometry: got 'a\\u202eb'"),
        ({"trained_on": {"checkpoint_sha256": "ab" * 31}}, "trained_on.checkpoint_sha256: got"),
    ],
)  # fmt: skip
def test_damaged_files_are_refused(
    change: dict[str, Any], message: str, golden: Golden, tmp_path: Path
) -> None:
    path = write_head(tmp_path / "head.json", drawn_head(golden.checkpoint))
    content = json.loads(path.read_text("utf-8"))
    for name, value in change.items():
        inner = name == "trained_on" and isinstance(value, dict)
        content[name] = content[name] | value if inner else value
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(Unreadable, match=message) as caught:
        read_linear_head(path)
    assert len(str(caught.value)) < 1000


def test_one_trained_head_at_a_time(
    golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = write_head(tmp_path / "head.json", drawn_head(golden.checkpoint))
    classfine = golden.folder / "ct_lipro.pt"

    def refused(checkpoint: Path, *options: object) -> str:
        with pytest.raises(SystemExit) as ended:
            raise SystemExit(main(
                ["export", "--checkpoint", str(checkpoint), "--text-model", str(golden.text_model),
                 "--volume-shape", golden.volume_shape_flag, "--out", str(tmp_path / "out"),
                 *map(str, options)]
            ))  # fmt: skip
        assert ended.value.code == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    both = refused(golden.checkpoint, "--head", head, "--classfine", classfine)
    assert "--classfine: not allowed with argument --head" in both
    assert "is a ClassFine checkpoint, whose own" in refused(classfine, "--head", head)
    assert "not JSON" in refused(golden.checkpoint, "--head", classfine)
    assert "missing" in refused(golden.checkpoint, "--head", tmp_path / "none.json")
