"""What `bench serve`, `file` and `growth` have in common: a server, its verdict, and the result."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctclip_bench.load.asking import Asked, Question
from ctclip_bench.load.memory import process_memory
from ctclip_bench.parity import REFERENCE_STEP, steps
from ctclip_bench.parity.inputs import ParityInputs, changed_files
from ctclip_bench.parity.prepared_scans import PreparedScan, preprocess_scans, read_scans
from ctclip_bench.parity.step_process import run_step
from ctclip_bench.results.files import without_name
from ctclip_bench.results.result import Parity, Result, Row
from ctclip_client import InvalidInput, Scores
from ctclip_client.contract import MODELS, PATHOLOGIES
from ctclip_client.release.repository import backend_of, check_variant, config_path, read_config
from ctclip_client.system.progress import Stages
from ctclip_client.transport.connection import Connection
from ctclip_client.transport.endpoint import Endpoint
from ctclip_export.engines.gpu import NoGpu, read_gpu
from ctclip_export.parity.judge import StepAnswer, judge
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS, require_bfloat16
from ctclip_server.embedded.server import EmbeddedTriton
from ctclip_server.releases.control import Control
from ctclip_server.self_check import check_embedded

WHOLE_PATH = (PATHOLOGIES.name, *(step.model.name for step in PATHOLOGIES.steps))
"""Models that count a scan."""


@dataclass(frozen=True)
class Session:
    """One server that is ready, the release that it is to have, and the scans to send.

    process_id: of the embedded Triton, None for any other. config: the name of its configs. folder:
    temporary, gone at the end. notes: of its self-check.
    """

    connection: Connection
    process_id: int | None
    inputs: ParityInputs
    scans: Sequence[PreparedScan]
    config: str
    described: Mapping[str, Any]
    folder: Path
    stages: Stages
    notes: tuple[str, ...] = ()

    @property
    def on_gpu(self) -> bool:
        """Whether a model of the server computes on a GPU."""
        models = self.described["models"].values()
        return any("KIND_GPU" in group for model in models for group in model["instances"])

    def memory(self) -> dict[str, int]:
        """Bytes of the server's processes together, and of the GPU as the driver tells it, whatever
        runs there; as far as they can be read, by the names of a row's figures."""
        found = {}
        if self.process_id is not None:
            found["peak_gib"] = sum(process_memory(self.process_id).values())
        if self.described["on_this_machine"] and self.on_gpu:
            with suppress(NoGpu):
                found["gpu_peak_gib"] = read_gpu().memory_used_bytes
        return found

    def questions(self) -> tuple[Question, ...]:
        """Scans, put where the process that asks can read them."""
        return tuple(
            Question.keep(scan.volume(), self.folder / f"question-{number}.npy")
            for number, scan in enumerate(self.scans)
        )

    def judge(self, answers: Sequence[Scores]) -> Parity:
        """Compare the server's answers, one for each scan, with the reference's, by the bounds of
        `ctclip parity`: PyTorch's where a checkpoint was named, else those of the repository's own
        graphs. Codes do not leave the server on this way; `ctclip parity` compares them.

        Raises: InvalidInput where another release has answered; CTClipError where the reference
        cannot be had.
        """
        inputs, release = self.inputs, answers[0].provenance.release
        if release != inputs.release.name:
            raise InvalidInput(
                f"--repository: it holds release {inputs.release.name}; {self.connection.url} "
                f"serves {release}.",
                "Name the repository that the server was started with.",
            )
        against, step = "ONNX Runtime", steps.onnx_runtime
        if inputs.checkpoint is not None:
            against, step = REFERENCE_STEP, steps.pytorch
        elif inputs.release.precision not in ONNX_RUNTIME_PRECISIONS:
            require_bfloat16()
            against, step = "OpenVINO", steps.openvino
        if changed := changed_files(inputs):
            return Parity("FAIL", against, reason=changed)
        with self.stages.stage(f"Parity: {against}", len(answers)) as advance:
            if step is not steps.pytorch:
                prepared = run_step(preprocess_scans, inputs, self.scans)
                if prepared.failure:
                    return Parity("FAIL", against, reason=prepared.failure)
            ran = run_step(step, inputs, self.scans, advance)
        if ran.failure:
            return Parity("FAIL", against, reason=ran.failure)
        served = [StepAnswer.of_scores(scores) for scores in answers]
        verdict = judge("whole path, own bank", served, ran.answers, inputs.bounds)
        return Parity.of(verdict, against)

    def complaints(self, asked: Sequence[Asked], judged: Sequence[Scores]) -> list[str]:
        """Which answers do not repeat the judged one to their question, within the release's
        bounds, and why."""
        found = []
        for each in asked:
            known = StepAnswer.of_scores(judged[each.question])
            got = StepAnswer.of_scores(each.scores)
            if reason := judge("repeated", [got], [known], self.inputs.bounds).reason:
                found.append(f"scan {each.question + 1}: {reason}")
        return found

    def result(
        self,
        kind: str,
        verdicts: Sequence[Parity],
        rows: Sequence[Row],
        plan: Mapping[str, Any],
        notes: Sequence[str] = (),
    ) -> Result:
        """It has passed where every verdict and every row's parity is PASS."""
        release = self.inputs.release
        subject = {
            "release": release.name,
            "config": self.config,
            "precision": release.precision,
            "geometry": release.content["geometry"],
            "random_weights": release.checkpoint.random_weights,
            "provenance": without_name(release.content),
            "server": self.described,
            "scans": [
                {"shape_zxy": list(v.voxels.shape), "spacing_mm": list(v.spacing_mm)}
                for v in (scan.volume() for scan in self.scans)
            ],
        }
        found = [*verdicts, *(row.parity for row in rows if row.parity is not None)]
        return Result(
            kind=kind,
            passed=all(each.verdict == "PASS" for each in found),
            subject=subject,
            plan={"device": "cuda" if self.on_gpu else "cpu", **plan},
            rows=tuple(rows),
            verdicts=tuple(verdicts),
            notes=(*self.notes, *notes),
        )


def under_load(judged: Parity, complaints: Sequence[str]) -> Parity:
    """A row's: the verdict, but FAIL where an answer was not the judged one."""
    return replace(judged, verdict="FAIL", reason=complaints[0]) if complaints else judged


def describe_server(
    connection: Connection, repository: Path, config_name: str | None
) -> dict[str, Any]:
    """Version, models and how each of them runs.

    Raises: InvalidInput if the server does not run what `config_name` says: numbers under a wrong
    name are worse than none.
    """
    if config_name is not None:
        check_variant(repository, config_name)
    models: dict[str, Any] = {}
    with Control(connection) as control:
        for model in MODELS:
            config = control.config(model.name)
            backend = backend_of(config)
            wanted = backend_of(read_config(config_path(repository / model.name, config_name)))
            if backend != wanted:
                raise InvalidInput(
                    f"{model.name}: {connection.url} runs it on {backend}; config "
                    f"{config_name or 'default'} of {repository} says {wanted}.",
                    "Start the server with that --model-config-name, or name the one it runs with "
                    "(--config-name).",
                )
            models[model.name] = {
                "backend": backend,
                "max_batch_size": config.max_batch_size,
                "instances": [
                    f"{group.count} × {group.Kind.Name(group.kind)}"
                    for group in config.instance_group
                ],
            }
        return {
            "triton": control.server_version(),
            "on_this_machine": Endpoint.parse(connection.url).loopback,
            "models": models,
        }


@contextmanager
def session(inputs: ParityInputs, config_name: str | None, timeout_s: float) -> Iterator[Session]:
    """Read the scans; the server of inputs.connection, or the embedded one, started as `ctclip
    serve` starts it: it is ready when its self-check has passed. At the end it is stopped, and the
    folder removed.

    config_name: what a server of inputs.connection is said to run with.
    Raises: CTClipError.
    """
    with ExitStack() as stack:
        stages = stack.enter_context(Stages())
        temporary = tempfile.TemporaryDirectory(prefix="ctclip-bench-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        with stages.stage("Scans: read", len(inputs.scans)) as advance:
            scans = read_scans(inputs.scans, folder, advance)
        notes: tuple[str, ...] = ()
        connection, process_id = inputs.connection, None
        if connection is None:
            config_name = inputs.config_name
            with stages.stage("Triton: start, and its self-check"):
                triton = stack.enter_context(
                    EmbeddedTriton(inputs.repository, config_name=config_name)
                )
                said = check_embedded(triton, timeout_s)
                notes = tuple(line for line in said if line.startswith("WARNING"))
            connection, process_id = Connection(triton.grpc_url, timeout_s), triton.process_id
        kind = {"kind": "already running" if process_id is None else "embedded"}
        described = kind | describe_server(connection, inputs.repository, config_name)
        yield Session(
            connection, process_id, inputs, scans, config_name or "default", described, folder,
            stages, notes,
        )  # fmt: skip
