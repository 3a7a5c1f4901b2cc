"""The reference on the device against itself on the CPU, with TF32, and its typed twins."""

from __future__ import annotations

import torch

from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject, encoder
from ctclip_bench.graphs.ceilings import tf32
from ctclip_export.parity.reference import answer_in_pytorch

SEEDS = range(4)
"""Variations of the chest that precisions are judged on."""


def measure(subject: Subject, rows: Rows) -> None:
    """Every row is judged by the judge of `ctclip parity`, on variations of a chest."""
    with torch.no_grad():
        for seed in SEEDS:
            subject.expected(seed)
        with rows.attempt(name := "float32 on the CPU against the device"):
            model, bank = subject.reference, subject.bank.cpu()
            answer = answer_in_pytorch(model, model.vision, bank, subject.volume(SEEDS[0]).cpu())
            rows.add(name, parity=subject.verdict("fp32", [answer], SEEDS[:1]))
        with rows.attempt(name := "text on the device against the CPU"):
            parity = subject.text_parity(subject.bank)
            rows.add(name, parity=parity, sentences=len(subject.bank))
        if subject.cuda:
            with rows.attempt("float32 with TF32"):
                with_tf32(subject, rows)
        for precision in ("fp16", "bf16"):
            with rows.attempt(name := f"{precision} twin"):
                twin = subject.vision(precision)
                said = [
                    answer_in_pytorch(subject.on_device, twin, subject.bank, subject.volume(seed))
                    for seed in SEEDS
                ]
                parity = subject.verdict(precision, said, SEEDS)
                rows.add(name, parity=parity, volumes=len(said))


def with_tf32(subject: Subject, rows: Rows) -> None:
    """What float32 loses by it. A verdict in fp32's bounds that is no PASS is why it is off."""
    encode = encoder(subject.on_device.vision)
    # Made without it: a variation is the result of a product, and would be another volume.
    volumes = [subject.volume(seed) for seed in SEEDS]
    with tf32(True):
        found = [encode(volume) for volume in volumes]
    said = [answer for each in found for answer in subject.answers(each)]
    parity = subject.verdict("fp32", said, SEEDS)
    rows.add("float32 with TF32", parity=parity, counted=False, judged="in the bounds of fp32")
