"""The verdict that stands above every timing: does the server say what the reference says?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_bench.load.server import Server
from ctclip_bench.parity import REFERENCE_STEP, steps
from ctclip_bench.parity.inputs import ParityInputs, changed_files
from ctclip_bench.parity.prepared_scans import keep_volume, preprocess_scans
from ctclip_bench.parity.step_process import run_step
from ctclip_client import InvalidInput, Scores, Volume
from ctclip_client.system.progress import Stages
from ctclip_export.parity.figures import least_cosine
from ctclip_export.parity.judge import Bounds, StepAnswer, StepVerdict, judge
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS, require_bfloat16

WHOLE_PATH = "whole path, own bank"
ZERO_SHOT = "zero-shot, the bank's prompts as text"


@dataclass(frozen=True)
class JudgedAnswers:
    """Verdicts, and the answers that were judged: what every timed answer must repeat.

    served: one for each scan. text_embeddings: (2F, E) float32, of the bank's prompts.
    """

    baseline: str
    bounds: Bounds
    verdicts: tuple[StepVerdict, ...]
    served: tuple[Scores, ...] = ()
    text_embeddings: NDArray[np.float32] | None = None

    @property
    def passed(self) -> bool:
        """Every verdict is PASS; none at all is no pass."""
        return bool(self.verdicts) and all(v.verdict == "PASS" for v in self.verdicts)


def compare_with_reference(
    server: Server, inputs: ParityInputs, volumes: Sequence[Volume], stages: Stages
) -> JudgedAnswers:
    """Ask the server once for every scan, and judge the answers by the bounds of `ctclip parity`.

    Codes do not leave the server on this way; `ctclip parity` compares them.
    volumes: of inputs.scans, in their order.
    Raises: InvalidInput if the server has another release, ServiceError if it does not answer.
    """
    baseline, step = "ONNX Runtime", steps.onnx_runtime
    if inputs.checkpoint is not None:
        baseline, step = REFERENCE_STEP, steps.pytorch
    elif inputs.release.precision not in ONNX_RUNTIME_PRECISIONS:
        require_bfloat16()
        baseline, step = "OpenVINO", steps.openvino
    bounds = inputs.bounds
    with stages.stage("Parity: ask the server", len(volumes)) as advance:
        served = []
        with server.client() as client:
            for volume in volumes:
                served.append(client.pathologies(volume))
                _check_release(served[-1], inputs.release.name, server)
                advance(1)
            zero_shot = client.zero_shot(volumes[0], inputs.release.prompts)
            text_embeddings = client.encode_text(inputs.sentences)
    if changed := changed_files(inputs):
        return JudgedAnswers(
            baseline, bounds, (StepVerdict("files of the repository", "FAIL", changed),)
        )
    with (
        stages.stage(f"Parity: {baseline}", len(volumes)) as advance,
        tempfile.TemporaryDirectory(prefix="ctclip-bench-", ignore_cleanup_errors=True) as name,
    ):
        scans = [
            keep_volume(scan, volume, Path(name), number)
            for number, (scan, volume) in enumerate(zip(inputs.scans, volumes, strict=True))
        ]
        failure = ""
        if step is not steps.pytorch:
            failure = run_step(preprocess_scans, inputs, scans).failure
        if not failure:
            ran = run_step(step, inputs, scans, advance)
            failure = ran.failure
    if failure:
        return JudgedAnswers(baseline, bounds, (StepVerdict(baseline, "FAIL", failure),))
    verdicts = (
        judge(WHOLE_PATH, [StepAnswer.of_scores(scores) for scores in served], ran.answers, bounds),
        judge(ZERO_SHOT, [StepAnswer.of_scores(zero_shot)], ran.answers[:1], bounds),
    )
    return JudgedAnswers(baseline, bounds, verdicts, tuple(served), text_embeddings)


def difference(bounds: Bounds, scores: Scores, expected: Scores) -> str:
    """What is wrong with a timed answer, "" if nothing: it must repeat the one that was judged."""
    found = embedding_difference(bounds, scores.image_embedding, expected.image_embedding)
    largest = float(np.abs(scores.probabilities - expected.probabilities).max())
    return found or ("" if largest <= bounds.probability else f"|Δprobability| {largest:.1e}")


def embedding_difference(
    bounds: Bounds, got: NDArray[np.float32], expected: NDArray[np.float32]
) -> str:
    """The same for embeddings (…, E): the lowest cosine counts. NaN passes nothing."""
    if got.shape != expected.shape:
        return f"embedding: shape {got.shape}, expected {expected.shape}"
    lowest = least_cosine(got, expected)
    return "" if lowest >= bounds.cosine else f"embedding: cosine {lowest:.6f}"


def _check_release(scores: Scores, expected: str, server: Server) -> None:
    got = scores.provenance.release
    if got != expected:
        raise InvalidInput(
            f"--repository: it holds release {expected}; {server.url} serves {got}.",
            "Name the repository that the server was started with.",
        )
