"""The vision graphs in ONNX Runtime: precisions, TF32, the guard of a bad volume."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ctclip_bench.gpu.graphs import graph
from ctclip_bench.gpu.phases.onnx_rows import timed
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.sessions import Session
from ctclip_bench.gpu.subject import Subject
from ctclip_client.contract import VISION
from ctclip_export.parity.judge import StepAnswer

_OUTPUTS = [tensor.name for tensor in VISION.outputs]
_SEED = 0


def measure(subject: Subject, rows: Rows) -> None:
    """A row a precision, and one with TF32, which says what it costs."""
    cases = [("fp32", False)]
    if subject.cuda:  # on a CPU, `ctclip bench graphs` compares precisions
        cases += [("fp32", True), ("fp16", False), ("bf16", False)]
    for precision, tf32 in cases:
        name = f"vision {precision}" + (", TF32 on" if tf32 else "")
        rows.attempt(name, _case(subject, rows, name, precision, tf32))


def _case(
    subject: Subject, rows: Rows, name: str, precision: str, tf32: bool
) -> Callable[[], None]:
    def work() -> None:
        feed = {"VOXELS": subject.volume(_SEED).cpu().numpy()}
        session, tokens = visible(subject, precision, tf32=tf32)
        got, placement = session.profiled(feed)
        parity = subject.verdict(precision, [answer_of(subject, got, tokens)], [_SEED])
        rows.add(
            name, **timed(session, feed, _OUTPUTS, subject.settings.runs), parity=parity,
            settings={"precision": precision, "tf32": tf32, "batch": 1}, counted=not tf32,
            **placement.figures(),
        )  # fmt: skip
        if not tf32:
            rows.attempt(f"{name}, guard", lambda: _guard(subject, rows, name, session))

    return work


def visible(subject: Subject, precision: str, *, tf32: bool = False) -> tuple[Session, str]:
    """A session of the vision graph that can also be asked for its unit tokens, and their name.

    Whoever does not ask for them pays nothing: they are what the code search reads anyway.
    """
    from ctclip_export.parity.runtimes import searched_tokens  # imports onnxruntime

    model = onnx.load(graph(subject, f"vision {precision}"))
    tokens = searched_tokens(model.graph)
    model.graph.output.append(onnx.ValueInfoProto(name=tokens))
    with tempfile.TemporaryDirectory(prefix="ctclip-gpu-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        del model
        return Session(path, subject.device, tf32=tf32), tokens


def answer_of(subject: Subject, got: dict[str, NDArray[Any]], tokens: str) -> StepAnswer:
    """One volume's outputs as the judge takes them; scores by the reference's own bank."""
    scores = subject.scores(got["IMAGE_EMBEDDING"])
    flat = got[tokens].reshape(-1, got[tokens].shape[-1]).astype(np.float32)
    return StepAnswer.of({**got, **scores}, tokens=flat)


def _guard(subject: Subject, rows: Rows, name: str, session: Session) -> None:
    """A bad volume beside a good one in a batch: the one is marked, the other is answered."""
    good = subject.volume(_SEED).cpu().numpy()
    alone = session.run({"VOXELS": good}, _OUTPUTS)
    bad = good.copy()
    bad[0, 0, 0, 0, 0] = np.nan
    embedding, norm, codes = session.run({"VOXELS": np.concatenate([bad, good])}, _OUTPUTS)
    if not (np.isnan(embedding[0]).all() and np.isnan(norm[0]).all() and (codes[0] == -1).all()):
        raise RuntimeError("a volume with NaN was answered")
    same = float((codes[1] == alone[2][0]).mean())
    if not np.isfinite(embedding[1]).all() or not (codes[1] >= 0).all():
        raise RuntimeError("the volume beside one with NaN was not answered")
    rows.add(f"{name}, guard: one voxel of NaN", marked=True, codes_of_its_neighbour_agree=same)
