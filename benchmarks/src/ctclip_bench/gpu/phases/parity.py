"""The reference on the device against itself on the CPU, with TF32, and its typed twins."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import JUDGED, Subject
from ctclip_bench.graphs.ceilings import tf32
from ctclip_bench.results.result import Parity
from ctclip_export.model import CTViT
from ctclip_export.parity.figures import least_cosine
from ctclip_export.parity.judge import BOUNDS, StepAnswer
from ctclip_export.parity.reference import answer_in_pytorch

SEEDS = range(JUDGED)


def measure(subject: Subject, rows: Rows) -> None:
    """Every row is judged by the judge of `ctclip parity`, on variations of a chest."""
    with torch.no_grad():
        for seed in SEEDS:
            subject.expected(seed)
        rows.attempt("float32 on the CPU against the device", lambda: _on_cpu(subject, rows))
        rows.attempt("text on the CPU against the device", lambda: _text_on_cpu(subject, rows))
        if subject.cuda:
            rows.attempt("float32 with TF32", lambda: _with_tf32(subject, rows))
        for precision in ("fp16", "bf16"):
            rows.attempt(f"{precision} twin", _twin(subject, rows, precision))


def _on_cpu(subject: Subject, rows: Rows) -> None:
    seed, model = SEEDS[0], subject.reference
    answer = answer_in_pytorch(model, model.vision, subject.bank.cpu(), subject.volume(seed).cpu())
    name = "float32 on the CPU against the device"
    rows.add(name, parity=subject.verdict("fp32", [answer], [seed]))


def _text_on_cpu(subject: Subject, rows: Rows) -> None:
    ids, mask = (torch.from_numpy(array) for array in subject.ids_and_mask)
    cosine = least_cosine(subject.reference.text(ids, mask).numpy(), subject.bank.cpu().numpy())
    verdict = "PASS" if cosine >= BOUNDS["fp32"].cosine else "FAIL"
    parity = Parity(verdict, "the same on the device", cosine=cosine)
    rows.add("text on the CPU against the device", parity=parity, sentences=len(ids))


def _with_tf32(subject: Subject, rows: Rows) -> None:
    """What float32 loses by it. A verdict in fp32's bounds that is no PASS is why it is off."""
    with tf32(True):
        answers = _answers(subject, subject.on_device.vision)
    parity = subject.verdict("fp32", answers, SEEDS)
    rows.add("float32 with TF32", parity=parity, counted=False, judged="in the bounds of fp32")


def _twin(subject: Subject, rows: Rows, precision: str) -> Callable[[], None]:
    def work() -> None:
        answers = _answers(subject, subject.vision(precision))
        parity = subject.verdict(precision, answers, SEEDS)
        rows.add(f"{precision} twin", parity=parity, volumes=len(answers))

    return work


def _answers(subject: Subject, vision: CTViT) -> list[StepAnswer]:
    return [
        answer_in_pytorch(subject.on_device, vision, subject.bank, subject.volume(seed))
        for seed in SEEDS
    ]
