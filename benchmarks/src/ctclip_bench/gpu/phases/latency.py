"""The encoders in PyTorch on the device: precisions, batches, CUDA graphs, memory, code search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ctclip_bench.gpu.answers import Encode, answers, encoder, text_parity
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.graphs.timing import Work, in_turn, measure_on
from ctclip_bench.results.result import Parity
from ctclip_export.model import CTViT
from ctclip_export.parity.judge import BOUNDS

BATCHES = (1, 2, 4, 8)
_GRAPHED = (1, 4)
"""Batches that are replayed as a CUDA graph, too: each keeps memory of its own."""
_LIMIT_S = 5.0


def measure(subject: Subject, rows: Rows) -> None:
    """Times by CUDA events on a GPU, by the clock elsewhere; medians of what took turns."""
    with torch.no_grad():
        for precision in ("fp32", "fp16", "bf16"):
            for batch in BATCHES if subject.cuda else BATCHES[:2]:
                name = f"vision {precision}, batch {batch}"
                rows.attempt(name, _vision(subject, rows, precision, batch))
        rows.attempt("text", lambda: _text(subject, rows))
        rows.attempt("code search", lambda: _code_search(subject, rows))


def _vision(subject: Subject, rows: Rows, precision: str, batch: int) -> Callable[[], None]:
    def work() -> None:
        vision = subject.vision(precision)
        encode = encoder(vision)
        voxels = torch.cat([subject.volume(seed) for seed in range(batch)])
        encode(voxels)  # the first run is the libraries', which make their workspaces in it
        peak = _peak_gib(subject, vision, voxels)
        works: dict[str, Work] = {"eager": lambda: encode(voxels)}
        graphs: list[_Graph] = []
        if subject.cuda and batch in _GRAPHED:
            name = f"vision {precision}, batch {batch}, CUDA graph"
            rows.attempt(name, lambda: graphs.append(_Graph(encode, voxels)))
        if graphs:
            works["CUDA graph"] = graphs[0].replay
        times = _times(subject, works)
        eager = encode(voxels)
        found = {"eager": eager}
        if graphs:
            found["CUDA graph"] = graphs[0].outputs()
        for mode, milliseconds in times.items():
            more: dict[str, Any] = {"peak_gib": peak} if mode == "eager" else {}
            if mode == "CUDA graph":
                more["codes_equal_eager"] = float((found[mode][2] == eager[2]).float().mean())
            rows.add(
                f"vision {precision}, batch {batch}, {mode}", milliseconds,
                parity=_parity(subject, precision, found[mode]),
                settings={"precision": precision, "batch": batch, "mode": mode}, **more,
            )  # fmt: skip

    return work


def _parity(subject: Subject, precision: str, found: tuple[Tensor, Tensor, Tensor]) -> Parity:
    """Of the first and the last volume of a batch: the judge takes half a second for each."""
    said = answers(subject, found)
    seeds = sorted({0, len(said) - 1})
    return subject.verdict(precision, [said[seed] for seed in seeds], seeds)


class _Graph:
    """A captured run over fixed tensors."""

    def __init__(self, encode: Encode, voxels: Tensor) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # A capture must not be the first run: libraries make their handles and workspaces in it.
        stream: Any = torch.cuda.Stream  # without types
        side = stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                encode(voxels)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph):
            self._outputs = encode(voxels)

    def replay(self) -> None:
        self._graph.replay()

    def outputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of one more replay: a capture alone computes nothing."""
        self.replay()
        torch.cuda.synchronize()
        return self._outputs


def _times(subject: Subject, works: dict[str, Work]) -> dict[str, list[float]]:
    runs = subject.settings.runs
    return in_turn(works, measure_on(subject.device), rounds=runs, warmup=2, limit_s=_LIMIT_S)


def _peak_gib(subject: Subject, vision: CTViT, voxels: Tensor) -> float | None:
    """Most memory of tensors at once: of this encoder, its input and what it computes, not of the
    other models that are on the GPU; None on a CPU.
    """
    if not subject.cuda:
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    vision(voxels)
    torch.cuda.synchronize()
    weights = sum(each.nbytes for each in (*vision.parameters(), *vision.buffers()))
    return (torch.cuda.max_memory_allocated() - before + weights + voxels.nbytes) / 2**30


def _text(subject: Subject, rows: Rows) -> None:
    ids, mask = (torch.from_numpy(array).to(subject.device) for array in subject.ids_and_mask)
    text = subject.on_device.text
    times = _times(subject, {"text": lambda: text(ids, mask)})
    settings = {"sentences": len(ids), "tokens": ids.shape[1], "precision": "fp32"}
    parity = text_parity(subject, text(ids, mask))
    rows.add("text fp32, eager", times["text"], parity=parity, settings=settings)


def _code_search(subject: Subject, rows: Rows) -> None:
    """As the reference has it, against products in bfloat16 whose best 8 are searched again."""
    vision = subject.on_device.vision
    tokens = vision.to_grid(vision.encode(vision.embed_patches(subject.volume(0)))[1])
    tokens = tokens.flatten(0, 3)  # (N, W)
    book = vision.unit_codebook  # (Z, W)
    coarse = book.bfloat16()

    def in_two_steps() -> Tensor:
        unit = F.normalize(tokens, dim=-1)
        best = (unit.bfloat16() @ coarse.T).topk(8, dim=-1).indices  # (N, 8)
        exact = torch.einsum("nw,nkw->nk", unit, book[best])  # (N, 8)
        return best.gather(1, exact.argmax(dim=-1, keepdim=True))[:, 0].int()

    expected = subject.reference.vision.nearest_codes(tokens.cpu())
    works: dict[str, Callable[[], Tensor]] = {
        "float32": lambda: vision.nearest_codes(tokens),
        "bfloat16, best 8 again in float32": in_two_steps,
    }
    times = _times(subject, dict(works))
    for name, search in works.items():
        agree = float((search().cpu() == expected).float().mean())
        verdict = "PASS" if agree >= BOUNDS["fp32"].codes else "FAIL"
        rows.add(
            f"code search, {name}", times[name],
            parity=Parity(verdict, "nearest codes in float32 on the CPU", agree),
            settings={"tokens": len(tokens), "codes": len(book)},
        )  # fmt: skip
