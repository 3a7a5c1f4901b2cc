"""The verdict that stands above every timing: does the server say what the reference says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctclip_bench.load.answers import Answer, Repeat
from ctclip_bench.parity import REFERENCE_STEP, steps
from ctclip_bench.parity.inputs import ParityInputs, changed_files
from ctclip_bench.parity.prepared_scans import keep_volume, preprocess_scans
from ctclip_bench.parity.step_process import run_step
from ctclip_bench.results.result import Parity
from ctclip_client import InvalidInput, Volume
from ctclip_client.system.progress import Stages
from ctclip_export.parity.judge import StepAnswer, StepVerdict, judge
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS, require_bfloat16

STEP = "whole path, own bank"


@dataclass(frozen=True)
class Judged:
    """The verdict, and the answers that it is of: what every timed answer must repeat."""

    verdict: StepVerdict
    against: str
    answers: tuple[bytes, ...]

    @property
    def passed(self) -> bool:
        """Whether there may be timings."""
        return self.verdict.verdict == "PASS"

    @property
    def parity(self) -> Parity:
        """As a result keeps it."""
        return Parity.of(self.verdict, self.against)


def repeat_of(inputs: ParityInputs) -> Repeat:
    """How far a later answer may be from the judged one."""
    return Repeat(inputs.bounds.cosine, inputs.bounds.probability)


def check_release(found: str, inputs: ParityInputs, url: str) -> None:
    """Raises: InvalidInput where another release has answered."""
    if found != inputs.release.name:
        raise InvalidInput(
            f"--repository: it holds release {inputs.release.name}; {url} serves {found}.",
            "Name the repository that the server was started with.",
        )


def judge_answers(
    inputs: ParityInputs,
    volumes: Sequence[Volume],
    answers: Sequence[bytes],
    folder: Path,
    stages: Stages,
) -> Judged:
    """Compare the server's answers, as `Answer.to_bytes` writes them, with the reference's, by the
    bounds of `ctclip parity`: PyTorch's where a checkpoint was named, else those of the
    repository's own graphs.

    volumes, answers: of inputs.scans, in their order. folder: for what steps hand each other.
    Codes do not leave the server on this way; `ctclip parity` compares them.
    Raises: CTClipError where the reference cannot be had.
    """
    against, step = "ONNX Runtime", steps.onnx_runtime
    if inputs.checkpoint is not None:
        against, step = REFERENCE_STEP, steps.pytorch
    elif inputs.release.precision not in ONNX_RUNTIME_PRECISIONS:
        require_bfloat16()
        against, step = "OpenVINO", steps.openvino

    def failed(reason: str) -> Judged:
        return Judged(StepVerdict(STEP, "FAIL", reason), against, ())

    if changed := changed_files(inputs):
        return failed(changed)
    with stages.stage(f"Parity: {against}", len(volumes)) as advance:
        scans = [
            keep_volume(scan, volume, folder, number)
            for number, (scan, volume) in enumerate(zip(inputs.scans, volumes, strict=True))
        ]
        if step is not steps.pytorch:
            prepared = run_step(preprocess_scans, inputs, scans)
            if prepared.failure:
                return failed(prepared.failure)
        ran = run_step(step, inputs, scans, advance)
    if ran.failure:
        return failed(ran.failure)
    findings = len(inputs.release.findings)
    served = []
    for raw in answers:
        got = Answer.from_bytes(raw, findings)
        served.append(StepAnswer(None, got.image_embedding, got.logits, got.probabilities))
    return Judged(judge(STEP, served, ran.answers, inputs.bounds), against, tuple(answers))
