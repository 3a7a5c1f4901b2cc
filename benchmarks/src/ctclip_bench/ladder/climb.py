"""Climb the ladder: run every rung that can run here, and judge each against the reference."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ctclip_bench.ladder import rungs
from ctclip_bench.ladder.process import Outcome, Rung, run_rung
from ctclip_bench.ladder.rungs import Answer, Job
from ctclip_bench.ladder.scans import Scan
from ctclip_client.contract import CHECK, VISION, Finding, Geometry
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.progress import Stages
from ctclip_export.hashing import sha256
from ctclip_export.parity.judge import Reading, Verdict, bounds_for, judge
from ctclip_export.parity.readings import searched_tokens
from ctclip_export.parity.typed import RUNS_ON_CPU

_CHUNK = 2048


@dataclass(frozen=True)
class Climb:
    """The finished ladder. probabilities: (scans, F) of the baseline and of the highest rung."""

    release: dict[str, Any]
    baseline: str
    scans: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    probabilities: tuple[NDArray[np.float32], NDArray[np.float32]] | None

    @property
    def passed(self) -> bool:
        """No rung failed, and at least one ran."""
        kinds = {verdict.verdict for verdict in self.verdicts}
        return "FAIL" not in kinds and "PASS" in kinds


def read_job(
    repository: Path,
    scans: Sequence[Scan],
    checkpoint: Path | None,
    text_model: Path | None,
) -> tuple[Job, dict[str, Any]]:
    """What the repository says of itself. Raises: Unreadable, InvalidInput."""
    path = repository / CHECK.name / "1" / "provenance.json"
    try:
        release = json.loads(path.read_text(encoding="utf-8"))["release"]
        geometry = release["geometry"]
        depth, height, width = geometry["volume_shape"]
        z, x, y = geometry["target_spacing_mm"]
        prompts = tuple(Finding(**entry) for entry in release["prompts"])
        precision, known = str(release["precision"]), release["checkpoint"]["sha256"]
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
    job = Job(
        repository, "1", Geometry((depth, height, width), (z, x, y)), precision, prompts,
        tuple(scans), checkpoint, text_model,
    )  # fmt: skip
    return job, release


def climb(job: Job, release: dict[str, Any], stages: Stages) -> Climb:
    """Run all rungs. A baseline that fails leaves nothing to compare with: that is a failure."""
    with tempfile.TemporaryDirectory(prefix="ctclip-ladder-") as folder:
        return _Climber(job, release, stages, Path(folder)).run()


class _Climber:
    def __init__(self, job: Job, release: dict[str, Any], stages: Stages, folder: Path) -> None:
        self.job, self.release, self.stages, self.folder = job, release, stages, folder
        slabs, rows, columns = release["geometry"]["token_shape"]
        self.bounds = bounds_for(job.precision, slabs * rows * columns)
        self.verdicts: list[Verdict] = []
        self.unit_codebook = _unit_codebook(job.file(VISION.name))
        self.highest: NDArray[np.float32] | None = None
        self.error = 0.0

    def run(self) -> Climb:
        precision = self.job.precision
        has_reference = self.job.checkpoint is not None
        onnx_name = f"ONNX {precision}, ONNX Runtime"
        baseline_name = "PyTorch fp32" if has_reference else onnx_name
        outcome = self._run(baseline_name, rungs.pytorch if has_reference else rungs.onnx_runtime)
        if outcome.failure:
            return self._finish(baseline_name, None)
        baseline = [self._reading(answer, margins=True) for answer in outcome.answers]
        tokens = [answer["tokens"] for answer in outcome.answers]
        if has_reference and precision != "fp32":
            self._judge(f"PyTorch {precision}", rungs.pytorch_typed, baseline, tokens)
        runs_here = precision in RUNS_ON_CPU
        reason = f"ONNX Runtime's CPU provider has no {precision} kernels"
        for name, rung in (
            (onnx_name, rungs.onnx_runtime),
            ("served by Triton", rungs.served),
            ("client, from a CT file", rungs.from_file),
        ):
            if name == baseline_name:
                continue
            if name == "served by Triton":
                self._engines()
            if runs_here:
                self._judge(name, rung, baseline, tokens)
            else:
                self.verdicts.append(Verdict(name, "NOT RUN", reason))
        return self._finish(baseline_name, np.stack([r.probabilities for r in baseline]))

    def _engines(self) -> None:
        plans = sorted(self.job.repository.glob("*/*/model.plan"))
        reason = "no model.plan in the repository"
        if plans:
            reason = "engines are compared on the GPU they were built for: make gpu-check"
        self.verdicts.append(Verdict("TensorRT engine", "NOT RUN", reason))

    def _judge(
        self, name: str, rung: Rung, baseline: list[Reading], tokens: list[NDArray[np.float32]]
    ) -> None:
        outcome = self._run(name, rung)
        if outcome.failure:
            return
        if "tokens" in outcome.answers[0]:
            # Rungs that hide their tokens run the same graph: they are held to the same error.
            pairs = zip(outcome.answers, tokens, strict=True)
            self.error = max(self._similarity_error(a["tokens"], ref) for a, ref in pairs)
        readings = [self._reading(answer) for answer in outcome.answers]
        self.verdicts.append(judge(name, readings, baseline, self.bounds, self.error))
        self.highest = np.stack([reading.probabilities for reading in readings])

    def _run(self, name: str, rung: Rung) -> Outcome:
        folder = self.folder / str(len(list(self.folder.iterdir())))
        with self.stages.stage(name, len(self.job.scans)) as advance:
            outcome = run_rung(rung, self.job, folder, advance)
        if outcome.failure:
            self.verdicts.append(Verdict(name, "FAIL", outcome.failure))
        return outcome

    def _reading(self, answer: Answer, *, margins: bool = False) -> Reading:
        codes = answer.get("codes")
        found = None
        if margins and codes is not None:
            unit = torch.from_numpy(answer["tokens"])
            best = [
                (part @ self.unit_codebook).topk(2, dim=-1).values
                for part in torch.split(unit, _CHUNK)
            ]
            both = torch.cat(best)
            found = (both[:, 0] - both[:, 1]).reshape(codes.shape).numpy()
        return Reading(
            codes, answer["image_embedding"], answer["logits"], answer["probabilities"], found
        )

    def _similarity_error(
        self, tokens: NDArray[np.float32], reference: NDArray[np.float32]
    ) -> float:
        """Largest |Δcosine| over tokens and codes; cosines are linear in the unit tokens."""
        difference = torch.from_numpy(tokens) - torch.from_numpy(reference)
        parts = torch.split(difference, _CHUNK)
        return max(float((part @ self.unit_codebook).abs().max()) for part in parts)

    def _finish(self, baseline: str, probabilities: NDArray[np.float32] | None) -> Climb:
        both = None
        if probabilities is not None and self.highest is not None:
            both = probabilities, self.highest
        names = tuple(scan.name for scan in self.job.scans)
        return Climb(self.release, baseline, names, tuple(self.verdicts), both)


def _unit_codebook(path: Path) -> torch.Tensor:
    """The code search's constant (W, Z), out of the graph that will serve."""
    graph = onnx.load(path).graph
    tokens = searched_tokens(graph)
    (search,) = (n for n in graph.node if n.op_type == "MatMul" and n.input[0] == tokens)
    constant = next(i for i in graph.initializer if i.name == search.input[1])
    return torch.from_numpy(onnx.numpy_helper.to_array(constant).astype(np.float32))
