"""Climb the ladder: run every rung that can run here, and judge each against the reference."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ctclip_bench.parity import ENGINE_RUNG, REFERENCE_RUNG
from ctclip_bench.parity import steps as rungs
from ctclip_bench.parity.files import changed_files
from ctclip_bench.parity.process import Outcome, Rung, run_rung, without_names
from ctclip_bench.parity.steps import Answer, Job
from ctclip_client.contract import CHECK, TOKENIZER, VISION, Finding, Geometry
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.system.progress import Stages
from ctclip_export.engines.run import missing_engine
from ctclip_export.parity.judge import Reading, Verdict, bounds_for, judge
from ctclip_export.parity.readings import code_margins, largest_change
from ctclip_export.parity.runtimes import (
    ONNX_RUNTIME_PRECISIONS,
    load_openvino,
    require_bfloat16,
    searched_tokens,
)
from ctclip_export.precision.typed_twin import DTYPES
from ctclip_export.samples.scans import Scan
from ctclip_server.releases.ladder import LadderRecord, plans_of
from ctclip_server.releases.members import read_members

FILES = "files"
"""No rung, but said as one: whether the files are those that the export judged."""
FLOAT32_ERROR = 1e-6
"""Of a cosine over 512 channels, by the order of the sum."""


@dataclass(frozen=True)
class Climb:
    """The finished ladder. probabilities: (scans, F) of the baseline and of the rung `scored`.

    scored: the highest rung that answered for every scan, whether it passed or not; "" if none did.
    plans: SHA-256 of the engines that lay in the repository when it began, by model.
    """

    release: dict[str, Any]
    baseline: str
    scans: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    probabilities: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    plans: Mapping[str, str] = field(default_factory=dict)
    scored: str = ""

    def record(self, *, sample: bool = False) -> LadderRecord:
        """What is kept beside the release; no name of a scan, which may name a patient.

        sample: whether the scans are the public chest CT and its variations.
        """
        verdicts = {_without_address(v.rung): v.verdict for v in self.verdicts if v.rung != FILES}
        engine = verdicts.get(ENGINE_RUNG)
        ran = [rung for rung, verdict in verdicts.items() if verdict != "NOT RUN"]
        record = LadderRecord(
            release=str(self.release["release"]),
            passed=self.passed,
            failures=tuple(f"{v.rung}: {v.reason}" for v in self.verdicts if v.verdict == "FAIL"),
            failed=tuple(r for r in ran if verdicts[r] == "FAIL" and r != ENGINE_RUNG),
            ran=tuple(dict.fromkeys((self.baseline, *ran))) if ran else (),
            plans=self.plans if engine == "PASS" else {},
            failed_plans=self.plans if engine == "FAIL" else {},
            scans=len(self.scans) if ran else 0,
            sample=sample and bool(ran),
            reference=self.baseline == REFERENCE_RUNG,
        )
        return replace(record, engines_date=record.date if ENGINE_RUNG in ran else "")

    @property
    def passed(self) -> bool:
        """No rung failed, and at least one ran; that the files are whole is no rung that ran."""
        kinds = {verdict.verdict for verdict in self.verdicts if verdict.volumes}
        kinds |= {"FAIL"} & {verdict.verdict for verdict in self.verdicts}
        return "FAIL" not in kinds and "PASS" in kinds


def read_job(
    repository: Path,
    scans: Sequence[Scan],
    checkpoint: Path | None,
    text_model: Path | None,
    *,
    url: str | None = None,
    config_name: str | None = None,
) -> tuple[Job, dict[str, Any]]:
    """What the repository says of the release that it serves. Raises: Unreadable, InvalidInput."""
    version = _served_version(repository)
    path = repository / CHECK.name / version / "provenance.json"
    try:
        release = json.loads(path.read_text(encoding="utf-8"))["release"]
        geometry = release["geometry"]
        depth, height, width = geometry["volume_shape"]
        z, x, y = geometry["target_spacing_mm"]
        prompts = tuple(Finding(**entry) for entry in release["prompts"])
        precision, known = str(release["precision"]), release["checkpoint"]["sha256"]
        name = str(release["release"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(
            f"--repository: {path} cannot be read ({error!r}).",
            "Name a repository that ctclip export has written.",
        ) from error
    if checkpoint is not None and checkpoint.is_file() and sha256(checkpoint) != known:
        raise InvalidInput(
            f"--against: {checkpoint} is not the checkpoint this repository was exported from "
            f"(SHA-256 {sha256(checkpoint)[:12]}…, expected {known[:12]}…).",
            "Name the checkpoint of the export, or export this one.",
        )
    if text_model is not None:
        _check_vocabulary(text_model, repository / TOKENIZER.name / version)
    if config_name is None and precision not in ONNX_RUNTIME_PRECISIONS:
        config_name = "openvino"  # of the CPU backends the one that computes in it
    job = Job(
        repository, version, name, Geometry((depth, height, width), (z, x, y)), precision, prompts,
        tuple(scans), checkpoint, text_model, url, config_name,
    )  # fmt: skip
    return job, release


def _check_vocabulary(text_model: Path, folder: Path) -> None:
    """Another vocabulary of the same size raises no shape error: only its words are others."""
    mine = sha256(text_model / "vocab.txt") if (text_model / "vocab.txt").is_file() else ""
    try:
        record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        known = str(record["vocabulary_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # the rung "files" says so
    if mine and mine != known:
        raise InvalidInput(
            f"--text-model: {text_model / 'vocab.txt'} is not the vocabulary this repository was "
            f"exported with (SHA-256 {mine[:12]}…, expected {known[:12]}…).",
            "Name the text model of the export.",
        )


def _served_version(repository: Path) -> str:
    pinned = sorted(read_members(repository).pinned())
    if len(pinned) != 1:
        raise InvalidInput(
            f"--repository: its ensembles pin versions {pinned}, expected one.",
            "Finish the promotion first: ctclip promote, or ctclip rollback.",
        )
    return str(pinned[0])


def climb(job: Job, release: dict[str, Any], stages: Stages) -> Climb:
    """Run all rungs. A baseline that fails leaves nothing to compare with: that is a failure."""
    with tempfile.TemporaryDirectory(prefix="ctclip-ladder-") as folder:
        return _Climber(job, release, stages, Path(folder)).run()


class _Step(NamedTuple):
    """One rung of this machine's ladder. missing: why it cannot run here, "" if it can.

    graph: the rung that runs the same graph in the same runtime and shows its tokens; its error of
    the similarity holds for this one, which hides them.
    """

    name: str
    rung: Rung
    missing: str = ""
    graph: str = ""


class _Climber:
    def __init__(self, job: Job, release: dict[str, Any], stages: Stages, folder: Path) -> None:
        self.job, self.release, self.stages, self.folder = job, release, stages, folder
        slabs, rows, columns = release["geometry"]["token_shape"]
        self.bounds = bounds_for(job.precision, slabs * rows * columns)
        self.verdicts: list[Verdict] = []
        self.plans = plans_of(job.repository, job.version)
        self.unit_codebook = _unit_codebook(job.file(VISION.name))
        self.highest: tuple[str, NDArray[np.float32]] | None = None
        self.errors: dict[str, float] = {}

    def run(self) -> Climb:
        changed = changed_files(self.job.repository, self.job.version)
        self.verdicts.append(Verdict(FILES, "FAIL" if changed else "PASS", changed))
        ladder = self._ladder()
        first = next((step for step in ladder if not step.missing), None)
        if first is None:
            self.verdicts += [Verdict(step.name, "NOT RUN", step.missing) for step in ladder]
            return self._finish("nothing", None)
        baseline_name = first.name
        outcome = self._run(first.name, first.rung)
        if outcome.failure:
            return self._finish(baseline_name, None)
        baseline = [self._reading(answer, margins=True) for answer in outcome.answers]
        tokens = [answer["tokens"] for answer in outcome.answers]
        for step in ladder:
            if step.missing:
                self.verdicts.append(Verdict(step.name, "NOT RUN", step.missing))
            elif step.name != baseline_name:
                self._judge(step, baseline, tokens)
        return self._finish(baseline_name, np.stack([r.probabilities for r in baseline]))

    def _ladder(self) -> list[_Step]:
        """From the reference upwards, with the reason for every rung that cannot run here."""
        job, precision = self.job, self.job.precision
        steps = []
        if job.checkpoint is not None:
            steps.append(_Step(REFERENCE_RUNG, rungs.pytorch))
            if precision in DTYPES and precision != "fp32":
                steps.append(_Step(f"PyTorch {precision}", rungs.pytorch_typed))
        low = precision not in ONNX_RUNTIME_PRECISIONS
        no_kernels = f"its CPU provider has no {precision} kernels" if low else ""
        no_openvino = _missing_openvino(precision)
        in_onnx, in_openvino = (
            f"ONNX {precision}, {name}" for name in ("ONNX Runtime", "OpenVINO")
        )
        steps += [
            _Step(in_onnx, rungs.onnx_runtime, no_kernels),
            _Step(in_openvino, rungs.openvino, no_openvino),
            _Step(ENGINE_RUNG, rungs.engine, missing_engine(job.file(VISION.name))),
        ]
        where = ""
        if job.config_name:
            where = f" ({job.config_name})"
        if job.url is not None:
            where = f" at {job.url}"
        # The embedded server runs bf16 in OpenVINO; another one, wherever it likes.
        absent = no_openvino if low and job.url is None else ""
        runtime = in_openvino if (job.config_name or "").startswith("openvino") else in_onnx
        if job.url is not None:
            runtime = ""  # whatever it runs
        steps += [
            _Step(f"served by Triton{where}", rungs.served, absent, runtime),
            _Step(f"client, from a CT file{where}", rungs.from_file, absent, runtime),
        ]
        return steps

    def _judge(
        self, step: _Step, baseline: list[Reading], tokens: list[NDArray[np.float32]]
    ) -> None:
        outcome = self._run(step.name, step.rung)
        if outcome.failure:
            return
        if "tokens" in outcome.answers[0]:
            pairs = zip(outcome.answers, tokens, strict=True)
            error = max(
                largest_change(
                    torch.from_numpy(a["tokens"]), torch.from_numpy(ref), self.unit_codebook
                )
                for a, ref in pairs
            )
            self.errors[step.name] = error
        else:
            # Where that rung was the baseline, the order of float32 sums is all that differs.
            known = max(self.errors.values(), default=0.0)
            known = self.errors.get(step.graph, 0.0) if step.graph else known
            error = max(known, FLOAT32_ERROR)
        readings = [self._reading(answer) for answer in outcome.answers]
        self.verdicts.append(judge(step.name, readings, baseline, self.bounds, error))
        self.highest = step.name, np.stack([reading.probabilities for reading in readings])

    def _run(self, name: str, rung: Rung) -> Outcome:
        folder = self.folder / str(len(list(self.folder.iterdir())))
        with self.stages.stage(name, len(self.job.scans)) as advance:
            outcome = run_rung(rung, self.job, folder, advance)
        if outcome.failure:
            reason = without_names(outcome.failure, [scan.path for scan in self.job.scans])
            self.verdicts.append(Verdict(name, "FAIL", reason))
        return outcome

    def _reading(self, answer: Answer, *, margins: bool = False) -> Reading:
        codes = answer.get("codes")
        found: Any = None
        if margins and codes is not None:
            found = code_margins(torch.from_numpy(answer["tokens"]), self.unit_codebook)
            found = found.reshape(codes.shape).numpy()
        return Reading(
            codes, answer["image_embedding"], answer["logits"], answer["probabilities"], found,
            answer["text_embedding"],
        )  # fmt: skip

    def _finish(self, baseline: str, probabilities: NDArray[np.float32] | None) -> Climb:
        both, scored = None, ""
        if probabilities is not None and self.highest is not None:
            scored, highest = self.highest
            both = probabilities, highest
        names = tuple(scan.name for scan in self.job.scans)
        return Climb(self.release, baseline, names, tuple(self.verdicts), both, self.plans, scored)


def _without_address(rung: str) -> str:
    """A server of one's own is another rung than the embedded one: it may run anything."""
    name, at, _ = rung.partition(" at ")
    return f"{name} at --url" if at else name


def _unit_codebook(path: Path) -> torch.Tensor:
    """The code search's constant (W, Z), out of the graph that will serve."""
    graph = onnx.load(path).graph
    tokens = searched_tokens(graph)
    (search,) = (n for n in graph.node if n.op_type == "MatMul" and n.input[0] == tokens)
    constant = next(i for i in graph.initializer if i.name == search.input[1])
    return torch.from_numpy(onnx.numpy_helper.to_array(constant).astype(np.float32))


def _missing_openvino(precision: str) -> str:
    """Why OpenVINO cannot judge a graph of this precision here; "" if it can."""
    try:
        if precision in ONNX_RUNTIME_PRECISIONS:
            load_openvino()
        else:
            require_bfloat16()
    except InvalidInput as error:
        return error.cause
    return ""
