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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from ctclip_bench.graphs.cases import judge_answers
from ctclip_bench.graphs.runners import Feed, OnnxRunner, Outputs, Tokens, Voxels, tokens_of_graph
from ctclip_bench.graphs.subject import Subject
from ctclip_bench.graphs.torch_runner import encoder_on, fitted_float32, tokens_of_module
from ctclip_bench.results.result import Parity, Row, Times
from ctclip_client import read_volume
from ctclip_client.contract import FINDINGS, MAX_TOKENS, PREPROCESS, VISION
from ctclip_client.errors import InvalidInput
from ctclip_client.system.progress import Stages
from ctclip_export.model import CTCLIP
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.judge import StepAnswer
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS
from ctclip_export.samples.scans import Scan

WHOLE_SCAN = "whole scan"


class _Stages(dict[str, float]):
    """Milliseconds of each stage of a run, as `read_ms`."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        key = f"{name}_ms"
        self[key] = self.get(key, 0.0) + (time.perf_counter() - start) * 1000


Run = Callable[[_Stages], tuple[StepAnswer, NDArray[np.float32]]]
"""From the file to the answer; VOXELS, on the way, is for the tokens."""
Way = tuple[Run, Callable[[Voxels], Tokens]]
"""A run, and what its vision encoder searches with, see `Tokens`."""


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
        ways: list[tuple[str, str, int, Callable[[], Way]]] = [
            ("PyTorch fp32, run well", "fp32", 2, partial(_run_well, subject, model, path, device)),
            (f"PyTorch fp32, as upstream's script{some}", "fp32", 1,
             partial(_as_upstream, subject, model, path, device, count)),
        ]  # fmt: skip
        if device == "cpu" and precision not in ONNX_RUNTIME_PRECISIONS:
            name = f"ONNX Runtime {precision}"
            reason = f"its CPU provider has no {precision} kernels"
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


def _row(subject: Subject, name: str, precision: str, runs: int, way: Way) -> Row:
    """The last of so many runs, if it answers right."""
    run, tokens = way
    for _ in range(runs):
        spent = _Stages()
        start = time.perf_counter()
        answer, voxels = run(spent)
        taken = (time.perf_counter() - start) * 1000
    settings: dict[str, Any] = {
        "runtime": "PyTorch" if name.startswith("PyTorch") else "ONNX Runtime",
        "precision": precision,
        "file": "NIfTI, not compressed",
    }  # fmt: skip
    count, reference = len(answer.logits), subject.answers[0]
    if count < len(reference.logits):
        settings["findings"] = count
        logits, probabilities = reference.logits[:count], reference.probabilities[:count]
        reference = replace(reference, logits=logits, probabilities=probabilities)
    parity = judge_answers(
        replace(subject, answers=(reference,), voxels=(voxels,)), name, precision, [answer], tokens
    )
    times = Times.of([taken]) if parity.verdict == "PASS" else None
    return Row(WHOLE_SCAN, name, settings, times, parity, spent)


def _by_graphs(subject: Subject, path: Path, device: str) -> Way:
    files = [subject.inputs.file(model.name) for model in (PREPROCESS, VISION, FINDINGS)]
    make = partial(OnnxRunner, device=device)
    preprocessing, vision, findings = map(make, files)

    def run(spent: _Stages) -> tuple[StepAnswer, NDArray[np.float32]]:
        with spent.stage("read"):
            volume = read_volume(path)
        with spent.stage("preprocess"):
            voxels = _answer(preprocessing, volume.tensors())
        with spent.stage("encode"):
            encoded = _answer(vision, voxels)
            image = {"IMAGE_EMBEDDING": encoded["IMAGE_EMBEDDING"]}
            answer = StepAnswer.of({**encoded, **_answer(findings, image)})
        return answer, voxels["VOXELS"]

    return run, partial(tokens_of_graph, files[1], make)


def _answer(runner: OnnxRunner, feed: Feed) -> Outputs:
    runner.bind(feed)
    runner.run()
    return runner.outputs()


def _run_well(subject: Subject, model: CTCLIP, path: Path, device: str) -> Way:
    vision = encoder_on(model.vision, "fp32", device)
    geometry = subject.inputs.release.geometry

    @torch.inference_mode()
    def run(spent: _Stages) -> tuple[StepAnswer, NDArray[np.float32]]:
        with spent.stage("read"):
            volume = read_volume(path)
        with spent.stage("preprocess"):
            feed = [torch.from_numpy(np.array(each)) for each in volume.tensors().values()]
            voxels = fitted_float32(geometry, feed[0].to(device), *feed[1:])
        with spent.stage("encode"):
            answer = _found(subject, vision(voxels))
        return answer, voxels.cpu().numpy()

    return run, partial(tokens_of_module, lambda: vision, device)


def _found(subject: Subject, encoded: Any) -> StepAnswer:
    embedding, _, codes = (tensor.cpu().numpy() for tensor in encoded)
    scores = subject.heads.scores(embedding)
    return StepAnswer.of({"IMAGE_EMBEDDING": embedding, "CODES": codes, **scores})


def _as_upstream(subject: Subject, model: CTCLIP, path: Path, device: str, count: int) -> Way:
    vision, text = (encoder_on(each, "fp32", device) for each in (model.vision, model.text))
    length = min(MAX_TOKENS, model.config.text.positions)
    padding = ((0, 0), (0, length - subject.ids.shape[1]))
    ids, mask = (np.pad(each, padding) for each in (subject.ids, subject.mask))
    spacing_mm, geometry = subject.volumes[0].spacing_mm, subject.inputs.release.geometry

    @torch.inference_mode()
    def run(spent: _Stages) -> tuple[StepAnswer, NDArray[np.float32]]:
        with spent.stage("read"):
            data: Any = nibabel.load(path).get_fdata()  # float64 Hounsfield units (x, y, z)
        with spent.stage("preprocess"):
            hu = data.transpose(2, 0, 1)
            voxels = preprocess(hu, spacing_mm, (1.0, 0.0), geometry).to(device)
        logits, probabilities = [], []
        for finding in range(count):
            pair = slice(2 * finding, 2 * finding + 2)
            with spent.stage("encode"):
                sentences = text(*(torch.from_numpy(a[pair]).to(device) for a in (ids, mask)))
                answer = _found(subject, vision(voxels))
                scores = subject.heads.scores(answer.image_embedding[None], sentences.cpu().numpy())
            logits.append(scores["LOGITS"][0])
            probabilities.append(scores["PROBABILITIES"][0])
        answer = replace(
            answer, logits=np.concatenate(logits), probabilities=np.concatenate(probabilities)
        )
        return answer, voxels.cpu().numpy()

    return run, partial(tokens_of_module, lambda: vision, device)
