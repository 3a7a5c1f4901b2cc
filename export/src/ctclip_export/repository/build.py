"""From a loaded checkpoint to a complete, checked repository: make graphs, check them, write."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctclip_client import read_volume
from ctclip_client.contract import (
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MODELS,
    PREPROCESS,
    Finding,
    Geometry,
)
from ctclip_client.system.progress import Stages
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.parity.check_fp32 import check_preprocess
from ctclip_export.parity.compare import Agreement, largest
from ctclip_export.precision.calibration import Calibration, Voxels, calibration
from ctclip_export.repository import check, make
from ctclip_export.repository.placement import check_target, staged
from ctclip_export.repository.source import ExportSource
from ctclip_export.repository.write import write_release

OWNED = (
    *(model.name for model in MODELS + CLASSFINE_MODELS),
    *(ensemble.name for ensemble in ENSEMBLES + CLASSFINE_ENSEMBLES),
)
"""All that an export may consist of. What an earlier one left and this one lacks must go: a
classifier would judge the embeddings of another release."""


@dataclass(frozen=True)
class Export:
    """What a finished export consists of."""

    repository: Path
    release: Mapping[str, object]
    agreements: Sequence[Agreement]


def export_repository(  # noqa: PLR0913 (all but five by keyword, each one of the command's own)
    checkpoint: Checkpoint,
    text_model: TextModel,
    geometry: Geometry,
    prompts: Sequence[Finding],
    out: Path,
    *,
    precision: str = "fp32",
    calibration_folder: Path | None = None,
    stages: Stages | None = None,
) -> Export:
    """Build every graph, prove it equal to the reference, and place the repository.

    precision: of the encoders' trunks (`precision_of` each); all other graphs are float32.
    calibration_folder: CTs for int8, see `ctclip_export.precision.calibration`. Nothing appears
    in `out` before everything has passed.
    Raises: ParityError, InvalidInput for a target or scans that cannot be used.
    """
    check_target(out)
    stages = stages or Stages()
    source = ExportSource(checkpoint, text_model, geometry, tuple(prompts), precision)
    scans = _calibration(calibration_folder, stages) if precision == "int8" else None
    with staged(out, OWNED) as staging:
        with stages.stage("Preprocessing: write and check the graph"):
            found = check_preprocess(*make.make_preprocess(source, staging), geometry)
        with stages.stage("Text encoder: trace"):
            path, text = make.make_text(source, staging)
        with stages.stage("Text encoder: compare with the reference"):
            agreements, bank = check.check_text_graph(source, path, text)
            found += agreements
        with stages.stage("Reference: a phantom and all prompts in PyTorch"):
            phantom = check.read_phantom(source)
        if scans is None:
            agreements, image = _vision(source, staging, phantom, stages)
            ranges = None
        else:
            agreements, image, ranges = _int8_vision(source, staging, phantom, scans, stages)
        found += agreements
        with stages.stage("Scores: write and check the graphs"):
            files = make.make_scores(source, staging, bank)
            found += check.check_score_graphs(source, files, image, bank)
        with stages.stage("Self-check: the graphs' answer against the reference's"):
            agreements, self_check = check.check_self_check(source, staging, phantom, image, bank)
            found += agreements
        found = largest(found)
        release = write_release(source, staging, found, self_check, ranges)
    return Export(out, release, found)


def _calibration(folder: Path | None, stages: Stages) -> Calibration:
    """CTs for int8, each read once: a damaged one is better said now than after the tracing."""
    scans = calibration(folder)
    paths = {scan.path for scan in (*scans.fitting, *scans.judging)}
    with stages.stage("CTs for int8: read", len(paths)) as advance:
        for path in sorted(paths):
            read_volume(path)
            advance(1)
    return scans


def _vision(
    source: ExportSource, staging: Path, phantom: check.PhantomReference, stages: Stages
) -> tuple[list[Agreement], check.Outputs]:
    with stages.stage("Vision encoder: trace"):
        path, twin = make.make_vision(source, staging)
    with stages.stage("Vision encoder: compare with the reference"):
        return check.check_vision_graph(source, path, twin, phantom)


def _int8_vision(
    source: ExportSource,
    staging: Path,
    phantom: check.PhantomReference,
    scans: Calibration,
    stages: Stages,
) -> tuple[list[Agreement], check.Outputs, Mapping[str, object]]:
    # Beside the staged repository, and gone with it.
    with tempfile.TemporaryDirectory(dir=staging.parent, ignore_cleanup_errors=True) as work:
        made = make.make_int8_vision(source, staging, scans, Path(work), stages)
        judging = Voxels(make.graph_file(staging, PREPROCESS), scans.judging)
        title = "Vision encoder: compare with the reference"
        with stages.stage(title, len(judging)) as advance:
            found, image = check.check_int8_graph(source, made, judging, phantom, advance)
    return found, image, made.ranges
