"""Every graph in ONNX Runtime on the device: values, guards, nodes that fell to the CPU, times."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from ctclip_bench.gpu.graphs import GRAPHS, graph
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.sessions import Arrays, Session, require_provider
from ctclip_bench.gpu.subject import ON_DEVICE, Subject, parity_if
from ctclip_client.contract import VISION
from ctclip_export.model.preprocess import preprocess
from ctclip_export.parity.figures import least_cosine
from ctclip_export.parity.judge import BOUNDS, StepAnswer
from ctclip_export.parity.runtimes import searched_tokens

VOXELS_BOUND = 2e-4
"""As `ctclip export` allows: two orders of operations on numbers of size 1 differ by 1e-6."""
RELEVANCE_BOUND = 1e-4
"""Of the largest share of a logit difference."""
_VISION_OUTPUTS = [tensor.name for tensor in VISION.outputs]


def measure(subject: Subject, rows: Rows) -> None:
    """A row a graph and setting; times with tensors bound on the device, and from host to host."""
    require_provider(subject.device)
    rows.add("ONNX Runtime", version=onnxruntime.__version__)
    for name in GRAPHS:
        if name.startswith("preprocess"):
            with rows.attempt(name):
                _preprocess(subject, rows, name)
    cases = [("fp32", False)]
    if subject.cuda:  # on a CPU, `ctclip bench graphs` compares precisions
        cases += [("fp32", True), ("fp16", False), ("bf16", False)]
    for precision, tf32 in cases:
        with rows.attempt(name := f"vision {precision}" + (", TF32 on" if tf32 else "")):
            _vision(subject, rows, name, precision, tf32=tf32)
    with rows.attempt("text"):
        _text(subject, rows)
    image = {"IMAGE_EMBEDDING": subject.expected(0).image_embedding[None]}
    both = {**image, "TEXT_EMBEDDING": subject.bank.cpu().numpy()}
    for name, feed in (("score", both), ("findings", image)):
        with rows.attempt(name):
            _scores(subject, rows, name, feed)
    with rows.attempt("relevance"):
        _relevance(subject, rows)


def _timed(
    subject: Subject, session: Session, feed: Arrays, outputs: Sequence[str]
) -> dict[str, Any]:
    """For `Rows.add`: milliseconds with bound tensors, and the median from host to host."""
    binding = session.bind(feed, outputs)
    works = {
        "bound": lambda: session.run_bound(binding),
        "host": lambda: session.run(feed, outputs),
    }
    times = subject.times(works, clock=True)
    return {"milliseconds": times["bound"], "host_to_host_ms": statistics.median(times["host"])}


def _guard(rows: Rows, row: str, session: Session, feed: Arrays, named: str) -> None:
    """A row that says that the graph refuses this, naming the input; failed if it does not."""
    with rows.attempt(row):
        try:
            session.run(feed)
        except Exception as error:
            if named not in str(error):
                raise
        else:
            raise RuntimeError("it was answered")
        rows.add(row, refused=True, names=named)


def _preprocess(subject: Subject, rows: Rows, name: str) -> None:
    scan = subject.scan
    feed = scan.tensors()
    session = Session(graph(subject, name), subject.device)
    got, placement = session.profiled(feed)
    expected = preprocess(scan.voxels, scan.spacing_mm, scan.rescale, subject.geometry)
    largest = float(np.abs(got["VOXELS"] - expected.numpy()).max())
    rows.add(
        name, **_timed(subject, session, feed, ["VOXELS"]),
        parity=parity_if(largest <= VOXELS_BOUND, "PyTorch float64 on the CPU"),
        settings={"slices": scan.voxels.shape[0], "matrix": scan.voxels.shape[1]},
        largest_difference=largest, **placement,
    )  # fmt: skip
    for field, what, bad in (
        ("SPACING", "nan", np.array([np.nan, 1, 1])),
        ("SPACING", "100", np.array([100.0, 1, 1])),
        ("RESCALE", "nan", np.array([np.nan, 0], np.float32)),
        ("RESCALE", "0", np.array([0, 0], np.float32)),
        ("VOLUME", "an empty axis", feed["VOLUME"][:0]),
    ):
        row = f"{name}, guard: {field} with {what}"
        _guard(rows, row, session, {**feed, field: bad}, field)


def _vision(subject: Subject, rows: Rows, name: str, precision: str, *, tf32: bool) -> None:
    """Judged with its unit tokens, which are one more output of the graph. Whoever does not ask for
    them pays nothing: they are what the code search reads anyway.
    """
    good = subject.volume(0).cpu().numpy()
    model = onnx.load(graph(subject, f"vision {precision}"))
    tokens = searched_tokens(model.graph)
    model.graph.output.append(onnx.ValueInfoProto(name=tokens))
    with tempfile.TemporaryDirectory(prefix="ctclip-gpu-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        del model
        session = Session(path, subject.device, tf32=tf32)
    got, placement = session.profiled({"VOXELS": good})
    flat = got[tokens].reshape(-1, got[tokens].shape[-1]).astype(np.float32)
    answer = StepAnswer.of({**got, **subject.scores(got["IMAGE_EMBEDDING"])}, tokens=flat)
    rows.add(
        name, **_timed(subject, session, {"VOXELS": good}, _VISION_OUTPUTS),
        parity=subject.verdict(precision, [answer], [0]),
        settings={"precision": precision, "tf32": tf32, "batch": 1}, counted=not tf32, **placement,
    )  # fmt: skip
    if tf32:
        return
    with rows.attempt(f"{name}, guard"):
        # A bad volume beside a good one in a batch: the one is marked, the other is answered.
        bad = good.copy()
        bad[0, 0, 0, 0, 0] = np.nan
        feed = {"VOXELS": np.concatenate([bad, good])}
        embedding, norm, codes = session.run(feed, _VISION_OUTPUTS)
        if not (
            np.isnan(embedding[0]).all() and np.isnan(norm[0]).all() and (codes[0] == -1).all()
        ):
            raise RuntimeError("a volume with NaN was answered")
        if not np.isfinite(embedding[1]).all() or not (codes[1] >= 0).all():
            raise RuntimeError("the volume beside one with NaN was not answered")
        same = float((codes[1] == got["CODES"][0]).mean())
        row = f"{name}, guard: one voxel of NaN"
        rows.add(row, marked=True, codes_of_its_neighbour_agree=same)


def _text(subject: Subject, rows: Rows) -> None:
    ids, mask = subject.ids_and_mask
    feed = {"INPUT_IDS": ids, "ATTENTION_MASK": mask}
    session = Session(graph(subject, "text"), subject.device)
    got, placement = session.profiled(feed)
    least = BOUNDS["fp32"].cosine
    cosine = least_cosine(got["TEXT_EMBEDDING"], subject.bank.cpu().numpy())
    rows.add(
        "text", **_timed(subject, session, feed, ["TEXT_EMBEDDING"]),
        parity=parity_if(cosine >= least, ON_DEVICE, cosine=cosine),
        settings={"sentences": len(ids), "tokens": ids.shape[1]}, **placement,
    )  # fmt: skip
    outside = ids.copy()
    outside[0, 1] = subject.text_model.config.vocabulary_size
    (marked,) = session.run({**feed, "INPUT_IDS": outside})
    others = least_cosine(marked[1:], got["TEXT_EMBEDDING"][1:])
    if not np.isnan(marked[0]).all() or not others >= least:
        raise RuntimeError("a row with an id outside of the vocabulary was answered")
    rows.add("text, guard: an id outside of the vocabulary", marked=True, others_cosine=others)


def _scores(subject: Subject, rows: Rows, name: str, feed: Arrays) -> None:
    session = Session(graph(subject, name), subject.device)
    got, placement = session.profiled(feed)
    expected = subject.expected(0)
    logit = float(np.abs(got["LOGITS"][0] - expected.logits).max())
    probability = float(np.abs(got["PROBABILITIES"][0] - expected.probabilities).max())
    parity = parity_if(
        probability <= BOUNDS["fp32"].probability, ON_DEVICE,
        logit_difference=logit, probability_difference=probability,
    )  # fmt: skip
    times = _timed(subject, session, feed, ["PROBABILITIES"])
    rows.add(name, **times, parity=parity, **placement)
    bad = {**feed, "IMAGE_EMBEDDING": np.full_like(feed["IMAGE_EMBEDDING"], np.nan)}
    _guard(rows, f"{name}, guard: an embedding of NaN", session, bad, "IMAGE_EMBEDDING")


@torch.no_grad()
def _relevance(subject: Subject, rows: Rows) -> None:
    model = subject.on_device
    _, norm, codes = model.vision(subject.volume(0))
    expected = model.relevance(codes, norm, subject.bank).cpu().numpy()
    feed = {"CODES": codes.cpu().numpy(), "IMAGE_NORM": norm.cpu().numpy()}
    session = Session(graph(subject, "relevance"), subject.device)
    got, placement = session.profiled(feed)
    largest = float(np.abs(got["RELEVANCE"] - expected).max() / np.abs(expected).max())
    rows.add(
        "relevance", **_timed(subject, session, feed, ["RELEVANCE"]),
        parity=parity_if(largest <= RELEVANCE_BOUND, ON_DEVICE),
        largest_relative_difference=largest, **placement,
    )  # fmt: skip
    outside = {**feed, "CODES": feed["CODES"] * 0 + model.config.vision.codebook_size}
    _guard(rows, "relevance, guard: a code outside of the codebook", session, outside, "CODES")
