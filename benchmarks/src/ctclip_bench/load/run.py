"""A run of `ctclip predict` over many files, as somebody types it: what it costs."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ctclip_bench.load.asking import Asked
from ctclip_bench.load.memory import core_seconds
from ctclip_bench.load.session import Session
from ctclip_client import Provenance, Scores, Volume
from ctclip_client.errors import DeadlineExceeded, ServerError
from ctclip_client.results import Transport
from ctclip_client.system.child import child

FIRST = "0000.nii.gz"
_PUTS_AWAY_S = 10.0


@dataclass(frozen=True)
class Ran:
    """One run. wall_s: from the start of the command to its end. client_core_s, server_core_s: of
    all scans and of the start; the server's is None where it is no process of ours."""

    asked: tuple[Asked, ...]
    wall_s: float
    client_core_s: float
    server_core_s: float | None

    def figures(self) -> dict[str, float]:
        """Of one scan, and how the time that passed compares with all cores at work."""
        count = len(self.asked)
        found = {
            "scans_per_s": count / self.wall_s,
            "client_core_s_a_scan": self.client_core_s / count,
        }
        if self.server_core_s is not None:
            cores = len(os.sched_getaffinity(0))
            bound_s = (self.client_core_s + self.server_core_s) / cores
            found["server_core_s_a_scan"] = self.server_core_s / count
            found["wall_of_bound"] = self.wall_s / bound_s
        return found


def write_files(volume: Volume, folder: Path, count: int) -> None:
    """A volume as `.nii.gz` in whole Hounsfield units, under so many names."""
    import nibabel

    slope, intercept = volume.rescale
    hu = np.rint(volume.voxels * np.float32(slope) + np.float32(intercept)).astype(np.int16)
    z, x, y = volume.spacing_mm
    image = nibabel.Nifti1Image(hu.transpose(1, 2, 0), np.diag([-x, -y, z, 1.0]))
    image.header.set_xyzt_units("mm")
    folder.mkdir()
    nibabel.save(image, folder / FIRST)
    for number in range(1, count):
        (folder / f"{number:04d}.nii.gz").symlink_to(FIRST)


def run_predict(session: Session, folder: Path) -> Ran:
    """Score all files of a folder by the command.

    Raises: DeadlineExceeded where an answer took longer than the connection allows; ServerError
    where the run failed otherwise.
    """
    out = folder.with_suffix(".jsonl")
    to = session.connection
    command = [
        sys.executable, "-m", "ctclip_client", "predict", str(folder), "--url", to.url,
        "--timeout-s", f"{to.timeout_s:g}", "--jsonl", str(out), "--embedding", "--again",
    ]  # fmt: skip
    server = session.process_id
    before = 0.0 if server is None else core_seconds(server)
    own = _core_seconds_of_children()
    started = time.perf_counter()
    with child(command, grace_s=_PUTS_AWAY_S, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None  # noqa: S101
        said = process.stderr.read()
    wall_s = time.perf_counter() - started
    client_core_s = _core_seconds_of_children() - own
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for row in rows:
        if row.get("error", {}).get("kind") == DeadlineExceeded.__name__:
            raise DeadlineExceeded(row["error"]["cause"])
    if process.returncode != 0 or not rows:
        raise ServerError(f"ctclip predict ended with {process.returncode}: {said[-600:]}")
    asked = tuple(Asked(0, 0.0, 0.0, _scores(row)) for row in rows)
    spent = None if server is None else core_seconds(server) - before
    out.unlink()
    return Ran(asked, wall_s, client_core_s, spent)


def _core_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _scores(row: Mapping[str, Any]) -> Scores:
    """A row of the journal as the client's answer."""
    findings = row["findings"]
    return Scores(
        findings=tuple(each["finding"] for each in findings),
        probabilities=np.array([each["probability"] for each in findings], np.float32),
        logits=np.array(
            [[each["logit_present"], each["logit_absent"]] for each in findings], np.float32
        ),
        image_embedding=np.array(row["image_embedding"], np.float32),
        provenance=Provenance.from_json(json.dumps(row["provenance"])),
        timings_ms=row["timings_ms"],
        transport=Transport(**row["transport"]),
    )
