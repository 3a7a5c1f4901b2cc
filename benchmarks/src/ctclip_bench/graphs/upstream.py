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
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ctclip_bench.graphs.cases import ShowTokens, judge_answers
from ctclip_bench.graphs.runners import (
    Feed,
    OnnxRunner,
    Outputs,
    missing_cuda_provider,
    tokens_of_graph,
)
from ctclip_bench.graphs.subject import Subject
from ctclip_bench.graphs.torch_runner import encoder_on, fitted_float32, tokens_of_module
from ctclip_bench.results.result import Parity, Row, Times
from ctclip_client import Volume, read_volume
from ctclip_client.contract import FINDINGS, MAX_TOKENS, PREPROCESS, VISION
from ctclip_client.errors import InvalidInput
from ctclip_client.system.progress import Stages
from ctclip_export.model import CTCLIP
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.judge import StepAnswer
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS
from ctclip_export.samples.scans import Scan

WHOLE_SCAN = "whole scan"


@dataclass(frozen=True)
class _Way:
    """A file is read, made VOXELS (1, 1, D, H, W), and encoded. tokens: see `Tokens`."""

    read: Callable[[], Any]
    prepare: Callable[[Any], Any]
    encode: Callable[[Any], StepAnswer]
    tokens: ShowTokens


def upstream_rows(
    subject: Subject, findings: int, device: str, stages: Stages
) -> tuple[list[Row], Parity]:
    """The table "whole scan", of the subject's first volume, and the verdict on it.

    findings: of how many the loop of upstream's script is run; all of them is what it does.
    Raises: InvalidInput for a subject without a reference.
    """
    model, precision = subject.model, subject.inputs.release.precision
    if model is None:
        raise InvalidInput("without --against there is no PyTorch model.", "Name a checkpoint.")
    every = len(subject.inputs.release.findings)
    count = min(findings, every)
    some = "" if count == every else f", {count} of {every} findings"
    rows = []
    with tempfile.TemporaryDirectory(
        prefix="ctclip-upstream-", ignore_cleanup_errors=True
    ) as folder:
        # Upstream never reorients: on a file that is stored L-P-S both see the same patient.
        path = Scan(Path("first"), 0).as_file(Path(folder), subject.volumes[0])
        ways: list[tuple[str, str, int, Callable[[], _Way]]] = [
            ("PyTorch fp32, run well", "fp32", 2, partial(_run_well, subject, model, path, device)),
            (f"PyTorch fp32, as upstream's script{some}", "fp32", 1,
             partial(_as_upstream, subject, model, path, device, count)),
        ]  # fmt: skip
        reason = missing_cuda_provider() if device == "cuda" else ""
        if device == "cpu" and precision not in ONNX_RUNTIME_PRECISIONS:
            reason = f"its CPU provider has no {precision} kernels"
        if reason:
            name = f"ONNX Runtime {precision}"
            rows.append(Row(WHOLE_SCAN, name, {"precision": precision}, not_run=reason))
        else:
            name = f"ONNX Runtime {precision}, the repository's graphs"
            ways.insert(0, (name, precision, 2, partial(_by_graphs, subject, path, device)))
        for name, computed_in, runs, make in ways:
            with stages.stage(f"{WHOLE_SCAN}: {name}"):
                rows.append(_row(subject, name, computed_in, runs, make()))
    judged = [row.parity for row in rows if row.parity is not None]
    wrong = [each.reason for each in judged if each.verdict != "PASS"]
    said = "; ".join(wrong) or f"{len(judged)} of {len(judged)} that ran agree"
    verdict = Parity("FAIL" if wrong else "PASS", subject.against, reason=f"{WHOLE_SCAN}: {said}")
    return rows, verdict


@torch.inference_mode()
def _row(subject: Subject, name: str, precision: str, runs: int, way: _Way) -> Row:
    """The last of so many runs, if it answers right."""
    for _ in range(runs):
        at = [time.perf_counter()]
        data = way.read()
        at.append(time.perf_counter())
        voxels = way.prepare(data)
        at.append(time.perf_counter())
        answer = way.encode(voxels)
        at.append(time.perf_counter())
    read, prepared, encoded = ((end - start) * 1000 for start, end in pairwise(at))
    spent = {"read_ms": read, "preprocess_ms": prepared, "encode_ms": encoded}
    settings: dict[str, Any] = {
        "runtime": "PyTorch" if name.startswith("PyTorch") else "ONNX Runtime",
        "precision": precision,
        "file": "NIfTI, not compressed",
    }
    count, reference = len(answer.logits), subject.answers[0]
    if count < len(reference.logits):
        settings["findings"] = count
        logits, probabilities = reference.logits[:count], reference.probabilities[:count]
        reference = replace(reference, logits=logits, probabilities=probabilities)
    shown = torch.as_tensor(voxels).cpu().numpy()
    parity = judge_answers(
        replace(subject, answers=(reference,), voxels=(shown,)), name, precision, [answer],
        way.tokens,
    )  # fmt: skip
    times = Times.of([(at[-1] - at[0]) * 1000]) if parity.verdict == "PASS" else None
    return Row(WHOLE_SCAN, name, settings, times, parity, spent if times else {})


def _by_graphs(subject: Subject, path: Path, device: str) -> _Way:
    files = [subject.inputs.file(model.name) for model in (PREPROCESS, VISION, FINDINGS)]
    make = partial(OnnxRunner, device=device)
    preprocessing, vision, findings = map(make, files)

    def encode(voxels: NDArray[np.float32]) -> StepAnswer:
        encoded = _answer(vision, {"VOXELS": voxels})
        image = {"IMAGE_EMBEDDING": encoded["IMAGE_EMBEDDING"]}
        return StepAnswer.of({**encoded, **_answer(findings, image)})

    return _Way(
        partial(read_volume, path),
        lambda volume: _answer(preprocessing, volume.tensors())["VOXELS"],
        encode, partial(tokens_of_graph, files[1], make),
    )  # fmt: skip


def _answer(runner: OnnxRunner, feed: Feed) -> Outputs:
    runner.bind(feed)
    runner.run()
    return runner.outputs()


def _run_well(subject: Subject, model: CTCLIP, path: Path, device: str) -> _Way:
    vision = encoder_on(model.vision, "fp32", device)
    geometry = subject.inputs.release.geometry

    def prepare(volume: Volume) -> Tensor:
        voxels, *others = (torch.tensor(np.array(each)) for each in volume.tensors().values())
        return fitted_float32(geometry, voxels.to(device), *others)

    return _Way(
        partial(read_volume, path), prepare, lambda voxels: _found(subject, vision(voxels)),
        partial(tokens_of_module, lambda: vision, device),
    )  # fmt: skip


def _found(subject: Subject, encoded: Any) -> StepAnswer:
    embedding, _, codes = (tensor.cpu().numpy() for tensor in encoded)
    scores = subject.heads.scores(embedding)
    return StepAnswer.of({"IMAGE_EMBEDDING": embedding, "CODES": codes, **scores})


def _as_upstream(subject: Subject, model: CTCLIP, path: Path, device: str, count: int) -> _Way:
    vision, text = (encoder_on(each, "fp32", device) for each in (model.vision, model.text))
    length = min(MAX_TOKENS, model.config.text.positions)
    padding = ((0, 0), (0, length - subject.ids.shape[1]))
    ids, mask = (np.pad(each, padding) for each in (subject.ids, subject.mask))
    spacing_mm, geometry = subject.volumes[0].spacing_mm, subject.inputs.release.geometry

    def prepare(data: Any) -> Tensor:  # float64 Hounsfield units (x, y, z)
        return preprocess(data.transpose(2, 0, 1), spacing_mm, (1.0, 0.0), geometry).to(device)

    def encode(voxels: Tensor) -> StepAnswer:
        logits, probabilities = [], []
        for finding in range(count):
            pair = slice(2 * finding, 2 * finding + 2)
            sentences = text(*(torch.from_numpy(a[pair]).to(device) for a in (ids, mask)))
            answer = _found(subject, vision(voxels))
            scores = subject.heads.scores(answer.image_embedding[None], sentences.cpu().numpy())
            logits.append(scores["LOGITS"][0])
            probabilities.append(scores["PROBABILITIES"][0])
        return replace(
            answer, logits=np.concatenate(logits), probabilities=np.concatenate(probabilities)
        )

    load: Any = nibabel.load
    return _Way(
        lambda: load(path).get_fdata(), prepare, encode,
        partial(tokens_of_module, lambda: vision, device),
    )  # fmt: skip
