"""Run every step that can run here, and judge each against the first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ctclip_bench.parity import ENGINE_STEP
from ctclip_bench.parity.inputs import ParityInputs, changed_files
from ctclip_bench.parity.plan import PlannedStep, planned_steps
from ctclip_bench.parity.prepared_scans import preprocess_scans, read_scans
from ctclip_bench.parity.step_process import StepRun, reason_of, run_step, without_names
from ctclip_client.contract import TEXT_ENCODER, VISION
from ctclip_client.errors import InvalidInput, ServerError, Unreadable
from ctclip_client.release.parity_runs import ParityRun, ParityStep
from ctclip_client.release.records import ReleaseRecord
from ctclip_client.system.progress import Stages
from ctclip_client.transport.connection import Connection
from ctclip_export.parity.judge import StepAnswer, StepVerdict, judge
from ctclip_export.parity.runtimes import searched_tokens
from ctclip_server.embedded.server import EmbeddedTriton

FILES = "files"
"""No step, but printed as one: whether the files are those that the export judged."""
ENGINES = (VISION.name, TEXT_ENCODER.name)
"""Models whose plans the engine's step runs; a run says nothing of any other plan."""
FLOAT32_ERROR = 1e-6
"""Of a cosine over 512 channels, by the order of the sum."""
_TIMEOUT_S = 600.0
"""For one scan in the embedded server: a CPU may need minutes."""


@dataclass(frozen=True)
class FinishedCheck:
    """A finished parity check.

    scored: the last step that answered for every scan, whether it passed or not; "" if none did.
    probabilities: (scans, F) of the baseline and of that step.
    engines: SHA-256 of the plans of `ENGINES` that lay there when it began, by model.
    """

    release: ReleaseRecord
    baseline: str
    scans: tuple[str, ...]
    verdicts: tuple[StepVerdict, ...]
    probabilities: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    scored: str = ""
    engines: Mapping[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """No step failed, and one has passed; the file check alone does not count."""
        found = {verdict.verdict for verdict in self.verdicts if verdict.step != FILES}
        return "PASS" in found and not self.failures

    @property
    def failures(self) -> tuple[StepVerdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.verdict == "FAIL")

    def with_verdict(self, verdict: StepVerdict) -> FinishedCheck:
        """The same with one more line."""
        return replace(self, verdicts=(*self.verdicts, verdict))

    def as_run(self, url: str | None = None, *, sample: bool = False) -> ParityRun:
        """What is kept beside the release: no name of a scan, which may name a patient, and no
        address of a server.

        url: the server that was asked. sample: whether the scans are the public chest CT and its
        variations.
        """

        def told(text: str) -> str:
            return text if url is None else text.replace(url, "--url")

        steps = [_as_step(verdict, told) for verdict in self.verdicts if verdict.step != FILES]
        ran = {step.name for step in steps if step.verdict != "NOT RUN"}
        return ParityRun(
            release=self.release.name,
            passed=self.passed,
            steps=tuple(steps),
            reference=self.baseline,
            scans=len(self.scans),
            sample=sample,
            failures=tuple(told(f"{each.step}: {each.reason}") for each in self.failures),
            engines=self.engines if ENGINE_STEP in ran else {},
        )


def run_parity(
    inputs: ParityInputs, stages: Stages, steps: Sequence[PlannedStep] | None = None
) -> FinishedCheck:
    """Run all steps, in their order. The first that can run is the baseline; where it fails nothing
    is left to compare with, and the check has failed.

    steps: others than those planned for this machine.
    Raises: Unreadable for scans or files of the release that cannot be read, NoVerdict and the
    errors of `run_step`: then nothing was judged.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ctclip-parity-", ignore_cleanup_errors=True) as folder,
        ExitStack() as stack,
    ):
        check = _ParityCheck(inputs, stages, Path(folder), stack)
        return check.run(planned_steps(inputs) if steps is None else steps)


class _ParityCheck:
    def __init__(
        self, inputs: ParityInputs, stages: Stages, folder: Path, stack: ExitStack
    ) -> None:
        self.inputs, self.stages, self.stack = inputs, stages, stack
        self.verdicts: list[StepVerdict] = []
        changed = changed_files(inputs)
        self.verdicts.append(StepVerdict(FILES, "FAIL" if changed else "PASS", changed))
        lying = inputs.members.engines(inputs.version)
        self.engines = {model: lying[model] for model in ENGINES if model in lying}
        with stages.stage("Scans: read", len(inputs.scans)) as advance:
            self.scans = read_scans(inputs.scans, folder, advance)
        self.codebook = _unit_codebook(inputs.file(VISION.name))
        self._prepared: StepRun[bool] | None = None
        self._address = self._no_server = ""

    def run(self, steps: Sequence[PlannedStep]) -> FinishedCheck:
        baseline = next((step for step in steps if not step.missing), None)
        references: tuple[StepAnswer, ...] = ()
        scored, probabilities = "", None
        if baseline is not None:
            references = self._answers(baseline)
        for step in steps:
            if step.missing:
                self.verdicts.append(StepVerdict(step.name, "NOT RUN", step.missing))
            elif references and step is not baseline and (answers := self._answers(step)):
                self.verdicts.append(self._judge(step, answers, references))
                scored = step.name
                probabilities = _probabilities(references), _probabilities(answers)
        return FinishedCheck(
            self.inputs.release,
            "nothing" if baseline is None else baseline.name,
            tuple(scan.name for scan in self.inputs.scans),
            tuple(self.verdicts),
            probabilities,
            scored,
            self.engines,
        )

    def _answers(self, step: PlannedStep) -> tuple[StepAnswer, ...]:
        """Run a step; where it fails, keep that as its verdict and return nothing."""
        failure = "" if step.own_preprocessing else self._preprocess()
        inputs = self.inputs
        if step.asks_server and inputs.connection is None and not failure:
            failure = self._start_server()
            inputs = replace(inputs, connection=Connection(self._address, _TIMEOUT_S))
        answers: tuple[StepAnswer, ...] = ()
        if not failure:
            with self.stages.stage(step.name, len(self.scans)) as advance:
                ran = run_step(step.answers, inputs, self.scans, advance)
            answers, failure = ran.answers, ran.failure
        if failure:
            reason = without_names(failure, [scan.path for scan in inputs.scans])
            self.verdicts.append(StepVerdict(step.name, "FAIL", reason))
        return answers

    def _preprocess(self) -> str:
        """Prepare the volumes for the first step that needs them; why that failed, "" if not."""
        if self._prepared is None:
            title = "Scans: preprocess by the repository's graph"
            with self.stages.stage(title, len(self.scans)) as advance:
                self._prepared = run_step(preprocess_scans, self.inputs, self.scans, advance)
        failure = self._prepared.failure
        return f"preprocessing: {failure}" if failure else ""

    def _start_server(self) -> str:
        """Start Triton for the first step that asks it; why that failed, "" if not."""
        if not self._address and not self._no_server:
            server = EmbeddedTriton(self.inputs.repository, config_name=self.inputs.config_name)
            try:
                with self.stages.stage("Triton: start and load all models"):
                    self._address = self.stack.enter_context(server).grpc_url
            except (InvalidInput, ServerError) as error:  # it does not load, or Triton crashed
                self._no_server = reason_of(error)
        return self._no_server

    def _judge(
        self, step: PlannedStep, answers: Sequence[StepAnswer], references: Sequence[StepAnswer]
    ) -> StepVerdict:
        measured = {verdict.step: verdict.similarity_error or 0.0 for verdict in self.verdicts}
        # Where the step of the same graph was the baseline, the order of float32 sums is all that
        # differs.
        known = measured.get(step.same_graph, 0.0) if step.same_graph else max(measured.values())
        return judge(
            step.name, answers, references, self.inputs.bounds,
            codebook=self.codebook, similarity_error=max(known, FLOAT32_ERROR),
        )  # fmt: skip


def _as_step(verdict: StepVerdict, told: Callable[[str], str]) -> ParityStep:
    figures = asdict(verdict)
    name, said, reason = (figures.pop(key) for key in ("step", "verdict", "reason"))
    return ParityStep(told(name), said, told(reason), figures)


def _probabilities(answers: Sequence[StepAnswer]) -> NDArray[np.float32]:
    return np.stack([answer.probabilities for answer in answers])


def _unit_codebook(path: Path) -> torch.Tensor:
    """The code search's constant (W, Z), out of the graph that will serve."""
    try:
        graph = onnx.load(path).graph
        tokens = searched_tokens(graph)
        (search,) = (n for n in graph.node if n.op_type == "MatMul" and n.input[0] == tokens)
        constant = next(i for i in graph.initializer if i.name == search.input[1])
    except Exception as error:
        raise Unreadable(
            f"--repository: {path} cannot be read as a vision graph ({reason_of(error)}).",
            "Export the repository again.",
        ) from error
    return torch.from_numpy(onnx.numpy_helper.to_array(constant).astype(np.float32))
