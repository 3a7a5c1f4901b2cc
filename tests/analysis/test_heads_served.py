"""From scans to a served head: embed, fit-head, export, serve, predict; by four commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ctclip_client import Client, read_volume
from ctclip_client.cli.program import main
from ctclip_client.release.digest import sha256
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nifti_files import save_volume

CLASSES = ('<b>Bright</b> "[red]" {{1}} $x', "Emphysem, mäßig")
"""Configurations, tables and pages have to show them as they are."""
COUNT = 24
Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> str:
        code = main(list(map(str, arguments)))
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run


def test_a_served_head_answers_as_scikit_learn(
    run: Run, server: EmbeddedTriton, golden: Golden, tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for seed in range(COUNT):
        save_volume(scans / f"{seed:02}.nii.gz", chest_phantom(golden.geometry, seed))
    forms = {suffix: tmp_path / f"scans.{suffix}" for suffix in ("npz", "parquet", "jsonl")}
    for embedded in forms.values():
        run("embed", "image", scans, "--out", embedded, "--url", server.grpc_url, "--readers", 0)
    with np.load(forms["npz"]) as arrays:
        vectors = arrays["embedding"].astype(np.float64)
    # Classes that the embeddings tell, so that probabilities leave the middle.
    told_by = vectors[:, [3, 11]]
    present = dict(zip(CLASSES, (told_by > np.median(told_by, axis=0)).T, strict=True))
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = zip(range(COUNT), *present.values(), strict=True)
        rows = ([f"{at:02}.nii.gz", *map(int, cells)] for at, *cells in table)
        csv.writer(file).writerows([["VolumeName", *CLASSES], *rows])
    heads = []
    for suffix, embedded in forms.items():
        head = tmp_path / f"head-{suffix}.json"
        run("fit-head", "--embeddings", embedded, "--labels", tmp_path / "labels.csv",
            "--out", head)  # fmt: skip
        heads.append(json.loads(head.read_text("utf-8")))
    for other in heads[1:]:
        np.testing.assert_allclose(other["weight"], heads[0]["weight"], rtol=1e-2, atol=1e-2)
    assert heads[0]["trained_on"]["checkpoint_sha256"] == sha256(golden.checkpoint)

    repository, head = tmp_path / "repository", tmp_path / "head-npz.json"
    run("export", "--checkpoint", golden.checkpoint, "--text-model", golden.text_model,
        "--volume-shape", golden.volume_shape_flag, "--head", head,
        "--out", repository)  # fmt: skip
    examined = json.loads(run("doctor", repository, "--json"))
    assert examined["verdict"] in ("PASS", "WARN"), examined
    (origin,) = (check for check in examined["checks"] if check["name"] == "origin")
    assert origin["values"]["classes"] == len(CLASSES)
    models = []
    for cells, told in zip(present.values(), heads[0]["cross_validation"]["classes"], strict=True):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=told["strength"]))
        models.append(model.fit(vectors, cells))
    scan = scans / f"{np.argmax(models[0].predict_proba(vectors)[:, 1]):02}.nii.gz"
    with EmbeddedTriton(repository, log=tmp_path / "log") as triton:
        printed = json.loads(run("predict", scan, "--classify", "--json", "--url", triton.grpc_url))
        with Client(triton.grpc_url) as client:
            result = client.classify(read_volume(scan))
        served = run("doctor", triton.grpc_url, "--repository", repository, "--json")
    embedding = result.image_embedding.astype(np.float64)[None]
    expected = [model.predict_proba(embedding)[0, 1] for model in models]
    assert expected[0] > 0.6
    np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-5)
    assert result.findings == CLASSES
    assert [each["finding"] for each in printed["findings"]] == list(CLASSES)
    got = [each["probability"] for each in printed["findings"]]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
    told = printed["provenance"]["head"]
    assert (told["name"], told["sha256"]) == ("head-npz.json", sha256(head))
    assert told["trained_on"] == heads[0]["trained_on"]
    assert json.loads(served)["verdict"] in ("PASS", "WARN"), served
