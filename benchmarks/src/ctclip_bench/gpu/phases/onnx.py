"""Every graph in ONNX Runtime on the device: values, guards, nodes that fell to the CPU, times."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ctclip_bench.gpu.graphs import GRAPHS, graph
from ctclip_bench.gpu.phases import onnx_vision
from ctclip_bench.gpu.phases.onnx_rows import guard, scan_of, timed
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.sessions import Arrays, Session, load_onnxruntime
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.results.result import Parity
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.figures import least_cosine
from ctclip_export.parity.judge import BOUNDS

VOXELS_BOUND = 2e-4
"""As `ctclip export` allows: two orders of operations on numbers of size 1 differ by 1e-6."""
RELEVANCE_BOUND = 1e-4
"""Of the largest share of a logit difference."""


def measure(subject: Subject, rows: Rows) -> None:
    """A row a graph and setting; times with tensors bound on the device, and from host to host."""
    ort = load_onnxruntime(subject.device)
    rows.add("ONNX Runtime", version=ort.__version__)
    for name in GRAPHS:
        if name.startswith("preprocess"):
            rows.attempt(name, _preprocess(subject, rows, name))
    onnx_vision.measure(subject, rows)
    rows.attempt("text", lambda: _text(subject, rows))
    answer = subject.expected(0)
    image = answer.image_embedding[None]
    scores = {"LOGITS": answer.logits[None], "PROBABILITIES": answer.probabilities[None]}
    bank = subject.bank.cpu().numpy()
    both = {"IMAGE_EMBEDDING": image, "TEXT_EMBEDDING": bank}
    rows.attempt("score", _scores(subject, rows, "score", both, scores))
    rows.attempt("findings", _scores(subject, rows, "findings", {"IMAGE_EMBEDDING": image}, scores))
    rows.attempt("relevance", lambda: _relevance(subject, rows))


def _preprocess(subject: Subject, rows: Rows, name: str) -> Callable[[], None]:
    def work() -> None:
        scan = scan_of(subject)
        feed = scan.tensors()
        session = Session(graph(subject, name), subject.device)
        got, placement = session.profiled(feed)
        expected = preprocess(scan.voxels, scan.spacing_mm, scan.rescale, subject.geometry)
        largest = float(np.abs(got["VOXELS"] - expected.numpy()).max())
        parity = Parity("PASS" if largest <= VOXELS_BOUND else "FAIL", "PyTorch float64 on the CPU")
        rows.add(
            name, **timed(session, feed, ["VOXELS"], subject.settings.runs), parity=parity,
            settings={"slices": scan.voxels.shape[0], "matrix": scan.voxels.shape[1]},
            largest_difference=largest, **placement.figures(),
        )  # fmt: skip
        for field, bad, said in (
            ("SPACING", np.array([np.nan, 1, 1]), "SPACING"),
            ("SPACING", np.array([100.0, 1, 1]), "SPACING"),
            ("RESCALE", np.array([np.nan, 0], np.float32), "RESCALE"),
            ("RESCALE", np.array([0, 0], np.float32), "RESCALE"),
            ("VOLUME", feed["VOLUME"][:0], "VOLUME"),
        ):
            what = "an empty axis" if field == "VOLUME" else f"{bad[0]:g}"
            row = f"{name}, guard: {field} with {what}"
            rows.attempt(row, guard(rows, row, session, {**feed, field: bad}, said))

    return work


def _text(subject: Subject, rows: Rows) -> None:
    ids, mask = subject.ids_and_mask
    feed = {"INPUT_IDS": ids, "ATTENTION_MASK": mask}
    session = Session(graph(subject, "text"), subject.device)
    got, placement = session.profiled(feed)
    cosine = least_cosine(got["TEXT_EMBEDDING"], subject.bank.cpu().numpy())
    parity = Parity(
        "PASS" if cosine >= BOUNDS["fp32"].cosine else "FAIL",
        "PyTorch float32 on the same device", cosine=cosine,
    )  # fmt: skip
    rows.add(
        "text", **timed(session, feed, ["TEXT_EMBEDDING"], subject.settings.runs), parity=parity,
        settings={"sentences": len(ids), "tokens": ids.shape[1]}, **placement.figures(),
    )  # fmt: skip
    outside = ids.copy()
    outside[0, 1] = subject.text_model.config.vocabulary_size
    (marked,) = session.run({**feed, "INPUT_IDS": outside})
    others = least_cosine(marked[1:], got["TEXT_EMBEDDING"][1:])
    if not np.isnan(marked[0]).all() or not others >= BOUNDS["fp32"].cosine:
        raise RuntimeError("a row with an id outside of the vocabulary was answered")
    rows.add("text, guard: an id outside of the vocabulary", marked=True, others_cosine=others)


def _scores(
    subject: Subject, rows: Rows, name: str, feed: Arrays, expected: Arrays
) -> Callable[[], None]:
    def work() -> None:
        session = Session(graph(subject, name), subject.device)
        got, placement = session.profiled(feed)
        logit, probability = (
            float(np.abs(got[each] - expected[each]).max()) for each in ("LOGITS", "PROBABILITIES")
        )
        parity = Parity(
            "PASS" if probability <= BOUNDS["fp32"].probability else "FAIL",
            "PyTorch float32 on the same device",
            logit_difference=logit, probability_difference=probability,
        )  # fmt: skip
        rows.add(
            name, **timed(session, feed, ["PROBABILITIES"], subject.settings.runs),
            parity=parity, **placement.figures(),
        )  # fmt: skip
        row = f"{name}, guard: an embedding of NaN"
        bad = {**feed, "IMAGE_EMBEDDING": np.full_like(feed["IMAGE_EMBEDDING"], np.nan)}
        rows.attempt(row, guard(rows, row, session, bad, "IMAGE_EMBEDDING"))

    return work


@torch.no_grad()
def _relevance(subject: Subject, rows: Rows) -> None:
    model = subject.on_device
    _, norm, codes = model.vision(subject.volume(0))
    expected = model.relevance(codes, norm, subject.bank).cpu().numpy()
    feed = {"CODES": codes.cpu().numpy(), "IMAGE_NORM": norm.cpu().numpy()}
    session = Session(graph(subject, "relevance"), subject.device)
    got, placement = session.profiled(feed)
    largest = float(np.abs(got["RELEVANCE"] - expected).max() / np.abs(expected).max())
    parity = Parity(
        "PASS" if largest <= RELEVANCE_BOUND else "FAIL", "PyTorch float32 on the same device"
    )
    rows.add(
        "relevance", **timed(session, feed, ["RELEVANCE"], subject.settings.runs), parity=parity,
        largest_relative_difference=largest, **placement.figures(),
    )  # fmt: skip
    row = "relevance, guard: a code outside of the codebook"
    outside = {**feed, "CODES": feed["CODES"] * 0 + model.config.vision.codebook_size}
    rows.attempt(row, guard(rows, row, session, outside, "CODES"))
