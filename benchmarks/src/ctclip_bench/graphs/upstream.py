"""From a CT file to the findings in one process: the repository's graphs, the reference run well,
and the reference as upstream's zero-shot script runs it.

The last is for the record. It reads the file by nibabel as float64, resamples all of it in float64,
and then, for every finding, pads its two sentences to BERT's 512 tokens, encodes them, and encodes
the volume again (upstream's `data_inference_nii.py` and `zero_shot.py`). Run well means: the volume
is encoded once, and the sentences before any scan arrives.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch

from ctclip_bench.graphs.judging import Found, judge_answers
from ctclip_bench.graphs.runners import Feed, OnnxRunner, Outputs, Runner
from ctclip_bench.graphs.subject import Subject
from ctclip_bench.graphs.timing import by_clock, in_turn
from ctclip_bench.graphs.tokens import ShowTokens, tokens_of_graph, tokens_of_module
from ctclip_bench.graphs.torch_runner import encoder_on, fitted_float32
from ctclip_bench.results.result import Parity, Row, Times
from ctclip_client import read_volume
from ctclip_client.contract import FINDINGS, MAX_TOKENS, PREPROCESS, VISION
from ctclip_client.system.progress import Advance, Stages
from ctclip_export.model import CTCLIP
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.judge import StepAnswer
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS
from ctclip_export.samples.scans import Scan

TABLE = "whole scan"


@dataclass
class _Way:
    """One way from a file to the findings. tokens: see `tokens.py`. answer, voxels and stages_ms:
    of the latest run.
    """

    name: str
    precision: str
    run: Callable[[_Way], StepAnswer]
    tokens: ShowTokens
    answer: StepAnswer | None = None
    voxels: Any = None
    stages_ms: dict[str, float] = field(default_factory=dict)

    def __call__(self) -> None:
        self.stages_ms = {}
        self.answer = self.run(self)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent = (time.perf_counter() - start) * 1000
        self.stages_ms[f"{name}_ms"] = self.stages_ms.get(f"{name}_ms", 0.0) + spent


def upstream_rows(
    subject: Subject, findings: int, device: str, stages: Stages
) -> tuple[list[Row], Parity]:
    """The table "whole scan", of the subject's first volume, and the verdict on it.

    findings: of how many the loop of upstream's script is run; all of them is what it does.
    """
    count = min(findings, len(subject.inputs.release.findings))
    with tempfile.TemporaryDirectory(
        prefix="ctclip-upstream-", ignore_cleanup_errors=True
    ) as folder:
        # Upstream never reorients: on a file that is stored L-P-S both see the same patient.
        path = Scan(Path("first"), 0).as_file(Path(folder), subject.volumes[0])
        quick, slow = [], []
        rows = []
        precision = subject.inputs.release.precision
        if device == "cpu" and precision not in ONNX_RUNTIME_PRECISIONS:
            rows.append(Row(
                TABLE, f"ONNX Runtime {precision}", _settings("ONNX Runtime", precision),
                not_run=f"its CPU provider has no {precision} kernels",
            ))  # fmt: skip
        else:
            quick.append(_by_graphs(subject, path, device))
        if subject.model is None:
            rows.append(Row(
                TABLE, "PyTorch, as upstream's script", _settings("PyTorch", "fp32"),
                not_run="without --against there is no PyTorch model",
            ))  # fmt: skip
        else:
            quick.append(_run_well(subject, subject.model, path, device))
        with stages.stage(f"{TABLE}: warm up", len(quick)) as advance:
            for way in quick:
                way()
                advance(1)
        with stages.stage(f"{TABLE}: time", count + len(quick)) as advance:
            if subject.model is not None:
                slow.append(_as_upstream(subject, subject.model, path, device, (count, advance)))
            ways = [*quick, *slow]
            times = in_turn({w.name: w for w in ways}, by_clock, rounds=1, warmup=0)
    measured = [_row(subject, way, times[way.name], count) for way in ways]
    judged = [row.parity for row in measured if row.parity is not None]
    wrong = [each.reason for each in judged if each.verdict != "PASS"]
    verdict = Parity(
        "FAIL" if wrong else "PASS", f"{TABLE} against {subject.against}",
        reason="; ".join(wrong) or f"{len(judged)} of {len(judged)} that ran agree",
    )  # fmt: skip
    return [*measured, *rows], verdict


def _settings(runtime: str, precision: str) -> dict[str, Any]:
    return {"runtime": runtime, "precision": precision, "file": "NIfTI, not compressed"}


def _row(subject: Subject, way: _Way, times: list[float], count: int) -> Row:
    runtime = way.name.split()[0].rstrip(",")
    runtime = "ONNX Runtime" if runtime == "ONNX" else runtime
    settings = _settings(runtime, way.precision)
    assert way.answer is not None  # noqa: S101 (it has been timed)
    reference = subject.answers[0]
    if len(way.answer.logits) < len(reference.logits):
        settings["findings"] = count
        reference = replace(
            reference, logits=reference.logits[:count],
            probabilities=reference.probabilities[:count],
        )  # fmt: skip
    only = replace(subject, answers=(reference,))
    verdict = judge_answers(
        only, Found(way.name, way.precision, (), partial(way.tokens, [way.voxels])), [way.answer]
    )
    taken = Times.of(times) if verdict.passed else None
    return Row(TABLE, way.name, settings, taken, verdict.parity, way.stages_ms)


def _by_graphs(subject: Subject, path: Path, device: str) -> _Way:
    inputs = subject.inputs
    runners = {
        model.name: OnnxRunner(inputs.file(model.name), device)
        for model in (PREPROCESS, VISION, FINDINGS)
    }

    def run(way: _Way) -> StepAnswer:
        with way.stage("read"):
            volume = read_volume(path)
        with way.stage("preprocess"):
            voxels = _answer(runners[PREPROCESS.name], volume.tensors())
            way.voxels = voxels["VOXELS"]
        with way.stage("encode"):
            vision = _answer(runners[VISION.name], voxels)
            image = {"IMAGE_EMBEDDING": vision["IMAGE_EMBEDDING"]}
            scores = _answer(runners[FINDINGS.name], image)
        return StepAnswer.of({**vision, **scores})

    precision = inputs.release.precision
    tokens = tokens_of_graph(inputs.file(VISION.name), lambda file: OnnxRunner(file, device))
    return _Way(f"ONNX Runtime {precision}, the repository's graphs", precision, run, tokens)


def _answer(runner: Runner, feed: Feed) -> Outputs:
    runner.bind(feed)
    runner.run()
    return runner.outputs()


def _run_well(subject: Subject, model: CTCLIP, path: Path, device: str) -> _Way:
    vision = encoder_on(model.vision, "fp32", device)
    fitted = fitted_float32(subject.inputs.release.geometry)

    @torch.inference_mode()
    def run(way: _Way) -> StepAnswer:
        with way.stage("read"):
            volume = read_volume(path)
        with way.stage("preprocess"):
            feed = [torch.from_numpy(np.array(each)) for each in volume.tensors().values()]
            voxels = fitted(feed[0].to(device), *feed[1:])
        with way.stage("encode"):
            answer = _found(subject, vision(voxels))
        way.voxels = voxels.cpu().numpy()
        return answer

    return _Way("PyTorch fp32, run well", "fp32", run, tokens_of_module(lambda: vision, device))


def _found(subject: Subject, encoded: Any) -> StepAnswer:
    embedding, _, codes = (tensor.cpu().numpy() for tensor in encoded)
    scores = subject.heads.scores(embedding)
    return StepAnswer.of({"IMAGE_EMBEDDING": embedding, "CODES": codes, **scores})


def _as_upstream(
    subject: Subject, model: CTCLIP, path: Path, device: str, loop: tuple[int, Advance]
) -> _Way:
    vision = encoder_on(model.vision, "fp32", device)
    text = encoder_on(model.text, "fp32", device)
    length = min(MAX_TOKENS, model.config.text.positions)
    padding = ((0, 0), (0, length - subject.ids.shape[1]))
    ids, mask = (np.pad(each, padding) for each in (subject.ids, subject.mask))
    spacing_mm, geometry = subject.volumes[0].spacing_mm, subject.inputs.release.geometry
    count, advance = loop

    @torch.inference_mode()
    def run(way: _Way) -> StepAnswer:
        with way.stage("read"):
            data: Any = nibabel.load(path).get_fdata()  # float64 Hounsfield units (x, y, z)
        with way.stage("preprocess"):
            hu = data.transpose(2, 0, 1)
            voxels = preprocess(hu, spacing_mm, (1.0, 0.0), geometry).to(device)
        logits, probabilities = [], []
        for finding in range(count):
            pair = slice(2 * finding, 2 * finding + 2)
            with way.stage("encode"):
                sentences = text(*(torch.from_numpy(a[pair]).to(device) for a in (ids, mask)))
                answer = _found(subject, vision(voxels))
                scores = subject.heads.scores(answer.image_embedding[None], sentences.cpu().numpy())
            logits.append(scores["LOGITS"][0])
            probabilities.append(scores["PROBABILITIES"][0])
            advance(1)
        way.voxels = voxels.cpu().numpy()
        return replace(
            answer, logits=np.concatenate(logits), probabilities=np.concatenate(probabilities)
        )

    whole = count == len(subject.inputs.release.findings)
    some = "" if whole else f", {count} of {len(subject.inputs.release.findings)} findings"
    tokens = tokens_of_module(lambda: vision, device)
    return _Way(f"PyTorch fp32, as upstream's script{some}", "fp32", run, tokens)
