"""Embeddings of a real server, in every form, through `ctclip evaluate retrieval`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ctclip_client import Client, read_volume
from ctclip_client.cli.program import main
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nifti_files import save_volume

COUNT = 12


def test_every_form_gives_the_figures_of_the_clients_vectors(
    server: EmbeddedTriton, golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = [tmp_path / "scans" / f"valid_{at}_a_1.nii.gz" for at in range(COUNT)]
    scans[0].parent.mkdir()
    for at, scan in enumerate(scans):
        save_volume(scan, chest_phantom(golden.geometry, at))
    texts = [f"Nodule of {at} mm." for at in range(COUNT)]
    with (tmp_path / "reports.csv").open("w", newline="") as file:
        rows = [(scan.name, text, "") for scan, text in zip(scans, texts, strict=True)]
        csv.writer(file).writerows([("VolumeName", "Findings_EN", "Impressions_EN"), *rows[::-1]])
    with Client(server.grpc_url) as client:
        images = np.stack([client.encode_image(read_volume(scan)) for scan in scans])
        cosines = client.encode_text(texts) @ images.T
    found = (-cosines).argsort(axis=1)[:, :5] == np.arange(COUNT)[:, None]
    for suffix in ("npz", "parquet", "jsonl"):
        files = {kind: tmp_path / f"{kind}.{suffix}" for kind in ("image", "text")}
        sources = {"image": scans[0].parent, "text": tmp_path / "reports.csv"}
        for kind, file in files.items():
            here = ["--url", server.grpc_url, *(["--readers", "0"] if kind == "image" else [])]
            assert main(["embed", kind, str(sources[kind]), "--out", str(file), *here]) == 0
        capsys.readouterr()
        asked = ["--images", str(files["image"]), "--texts", str(files["text"]), "--json"]
        assert main(["evaluate", "retrieval", *asked]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["report_to_volume"]["reports"] == COUNT
        assert said["report_to_volume"]["recall"][0]["value"] == pytest.approx(found.sum() / COUNT)
        assert not any(said["left_out"].values())
