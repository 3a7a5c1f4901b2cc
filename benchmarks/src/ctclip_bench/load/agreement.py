"""The verdict that stands above every timing: does the server say what the reference says?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_bench.load.server import Server
from ctclip_bench.parity import REFERENCE_RUNG
from ctclip_bench.parity import steps as rungs
from ctclip_bench.parity.files import changed_files
from ctclip_bench.parity.process import run_rung
from ctclip_bench.parity.steps import Job
from ctclip_client import InvalidInput, Scores, Volume
from ctclip_client.system.progress import Stages
from ctclip_export.parity.judge import Bounds, Reading, Verdict, bounds_for, judge
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS, require_bfloat16

WHOLE_PATH = "whole path, own bank"
ZERO_SHOT = "zero-shot, the bank's prompts as text"


@dataclass(frozen=True)
class Agreement:
    """Verdicts, and the answers that were judged: what every timed answer must repeat.

    served: one for each scan. text_embeddings: (2F, E) float32, of the bank's prompts.
    """

    baseline: str
    bounds: Bounds
    verdicts: tuple[Verdict, ...]
    served: tuple[Scores, ...] = ()
    text_embeddings: NDArray[np.float32] | None = None

    @property
    def passed(self) -> bool:
        """Every verdict is PASS; none at all is no pass."""
        return bool(self.verdicts) and all(v.verdict == "PASS" for v in self.verdicts)


def compare_with_reference(
    server: Server,
    job: Job,
    release: dict[str, Any],
    volumes: Sequence[Volume],
    stages: Stages,
) -> Agreement:
    """Ask the server once for every scan, and judge the answers by the ladder's bounds.

    Codes do not leave the server on this way; `ctclip parity` compares them.
    Raises: InvalidInput if the server has another release, ServiceError if it does not answer.
    """
    baseline, rung = "ONNX Runtime", rungs.onnx_runtime
    if job.checkpoint is not None:
        baseline, rung = REFERENCE_RUNG, rungs.pytorch
    elif job.precision not in ONNX_RUNTIME_PRECISIONS:
        require_bfloat16()
        baseline, rung = "OpenVINO", rungs.openvino
    slabs, rows, columns = release["geometry"]["token_shape"]
    bounds = bounds_for(job.precision, slabs * rows * columns)
    with stages.stage("Parity: ask the server", len(volumes)) as advance:
        served = []
        with server.client() as client:
            for volume in volumes:
                served.append(client.pathologies(volume))
                _check_release(served[-1], release, server)
                advance(1)
            zero_shot = client.zero_shot(volumes[0], job.prompts)
            texts = [text for entry in job.prompts for text in (entry.present, entry.absent)]
            text_embeddings = client.encode_text(texts)
    if changed := changed_files(job.repository, job.version):
        verdict = Verdict("files of the repository", "FAIL", changed)
        return Agreement(baseline, bounds, (verdict,))
    with (
        stages.stage(f"Parity: {baseline}", len(volumes)) as advance,
        tempfile.TemporaryDirectory(prefix="ctclip-bench-") as folder,
    ):
        outcome = run_rung(rung, job, Path(folder) / "baseline", advance)
    if outcome.failure:
        return Agreement(baseline, bounds, (Verdict(baseline, "FAIL", outcome.failure),))
    references = [_reading(answer) for answer in outcome.answers]
    verdicts = (
        judge(WHOLE_PATH, [_scores(scores) for scores in served], references, bounds, 0.0),
        judge(ZERO_SHOT, [_scores(zero_shot)], references[:1], bounds, 0.0),
    )
    return Agreement(baseline, bounds, verdicts, tuple(served), text_embeddings)


def difference(bounds: Bounds, scores: Scores, expected: Scores) -> str:
    """What is wrong with a timed answer, "" if nothing: it must repeat the one that was judged."""
    return embedding_difference(
        bounds, scores.image_embedding, expected.image_embedding
    ) or _probability_difference(bounds, scores, expected)


def embedding_difference(
    bounds: Bounds, got: NDArray[np.float32], expected: NDArray[np.float32]
) -> str:
    """The same for embeddings (…, E): the lowest cosine counts. NaN passes nothing."""
    if got.shape != expected.shape:
        return f"embedding: shape {got.shape}, expected {expected.shape}"
    a, b = got.astype(np.float64), expected.astype(np.float64)
    cosines = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    lowest = float(np.min(cosines))
    return "" if lowest >= bounds.cosine else f"embedding: cosine {lowest:.6f}"


def _probability_difference(bounds: Bounds, scores: Scores, expected: Scores) -> str:
    largest = float(np.abs(scores.probabilities - expected.probabilities).max())
    return "" if largest <= bounds.probability else f"|Δprobability| {largest:.1e}"


def _check_release(scores: Scores, release: dict[str, Any], server: Server) -> None:
    got, expected = scores.provenance.release, release["release"]
    if got != expected:
        raise InvalidInput(
            f"--repository: it holds release {expected}; {server.url} serves {got}.",
            "Name the repository that the server was started with.",
        )


def _reading(answer: rungs.Answer) -> Reading:
    return Reading(None, answer["image_embedding"], answer["logits"], answer["probabilities"])


def _scores(scores: Scores) -> Reading:
    return Reading(None, scores.image_embedding, scores.logits, scores.probabilities)
