"""The reference on the device against itself on the CPU, with TF32, and its typed twins."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctclip_bench.gpu.answers import answers, encoder, text_parity
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import JUDGED, Subject
from ctclip_bench.graphs.ceilings import tf32
from ctclip_export.parity.reference import answer_in_pytorch

SEEDS = range(JUDGED)


def measure(subject: Subject, rows: Rows) -> None:
    """Every row is judged by the judge of `ctclip parity`, on variations of a chest."""
    with torch.no_grad():
        for seed in SEEDS:
            subject.expected(seed)
        rows.attempt("float32 on the CPU against the device", lambda: _on_cpu(subject, rows))
        rows.attempt("text on the device against the CPU", lambda: _text(subject, rows))
        if subject.cuda:
            rows.attempt("float32 with TF32", lambda: _with_tf32(subject, rows))
        for precision in ("fp16", "bf16"):
            rows.attempt(f"{precision} twin", _twin(subject, rows, precision))


def _on_cpu(subject: Subject, rows: Rows) -> None:
    seed, model = SEEDS[0], subject.reference
    answer = answer_in_pytorch(model, model.vision, subject.bank.cpu(), subject.volume(seed).cpu())
    name = "float32 on the CPU against the device"
    rows.add(name, parity=subject.verdict("fp32", [answer], [seed]))


def _text(subject: Subject, rows: Rows) -> None:
    parity = text_parity(subject, subject.bank)
    name = "text on the device against the CPU"
    rows.add(name, parity=parity, sentences=len(subject.bank))


def _with_tf32(subject: Subject, rows: Rows) -> None:
    """What float32 loses by it. A verdict in fp32's bounds that is no PASS is why it is off."""
    encode = encoder(subject.on_device.vision)
    # Made without it: a variation is the result of a product, and would be another volume.
    volumes = [subject.volume(seed) for seed in SEEDS]
    with tf32(True):
        found = [encode(volume) for volume in volumes]
    said = [answer for each in found for answer in answers(subject, each)]
    parity = subject.verdict("fp32", said, SEEDS)
    rows.add("float32 with TF32", parity=parity, counted=False, judged="in the bounds of fp32")


def _twin(subject: Subject, rows: Rows, precision: str) -> Callable[[], None]:
    def work() -> None:
        vision = subject.vision(precision)
        said = [
            answer_in_pytorch(subject.on_device, vision, subject.bank, subject.volume(seed))
            for seed in SEEDS
        ]
        parity = subject.verdict(precision, said, SEEDS)
        rows.add(f"{precision} twin", parity=parity, volumes=len(said))

    return work
