"""The encoders in PyTorch on the device: precisions, batches, CUDA graphs, memory, code search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ctclip_bench.gpu.answers import answers, encoder
from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.graphs.timing import Work, in_turn, measure_on
from ctclip_bench.results.result import Parity
from ctclip_export.model import CTViT

BATCHES = (1, 2, 4, 8)
_GRAPHED = (1, 4)
"""Batches that are replayed as a CUDA graph, too: each keeps memory of its own."""
_LIMIT_S = 5.0
_WIDTHS = (1365, 1368, 1376, 1408)
"""Of the feed-forward part: upstream's, and the next multiples of 8, 32 and 128."""


def measure(subject: Subject, rows: Rows) -> None:
    """Times by CUDA events on a GPU, by the clock elsewhere; medians of what took turns."""
    with torch.no_grad():
        for precision in ("fp32", "fp16", "bf16"):
            for batch in BATCHES if subject.cuda else BATCHES[:2]:
                name = f"vision {precision}, batch {batch}"
                rows.attempt(name, _vision(subject, rows, precision, batch))
        rows.attempt("text", lambda: _text(subject, rows))
        rows.attempt("code search", lambda: _code_search(subject, rows))
        rows.attempt("feed-forward products", lambda: _widths(subject, rows))


def _vision(subject: Subject, rows: Rows, precision: str, batch: int) -> Callable[[], None]:
    def work() -> None:
        vision = subject.vision(precision)
        voxels = torch.cat([subject.volume(seed) for seed in range(batch)])
        said = answers(subject, encoder(vision)(voxels))
        seeds = sorted({0, batch - 1})  # the judge takes half a second for each
        parity = subject.verdict(precision, [said[seed] for seed in seeds], seeds)
        del said
        peak = _peak_gib(subject, vision, voxels)
        works: dict[str, Work] = {"eager": lambda: vision(voxels)}
        graphs: list[_Graph] = []
        if subject.cuda and batch in _GRAPHED:
            name = f"vision {precision}, batch {batch}, CUDA graph"
            rows.attempt(name, lambda: graphs.append(_Graph(vision, voxels)))
        if graphs:
            works["CUDA graph"] = graphs[0].replay
        times = _times(subject, works)
        for mode, milliseconds in times.items():
            more: dict[str, Any] = {"peak_gib": peak} if mode == "eager" else {}
            if mode == "CUDA graph":
                more["codes_equal_eager"] = graphs[0].codes_agree(vision(voxels)[2])
            rows.add(
                f"vision {precision}, batch {batch}, {mode}", milliseconds, parity=parity,
                settings={"precision": precision, "batch": batch, "mode": mode}, **more,
            )  # fmt: skip

    return work


class _Graph:
    """A captured run over fixed tensors."""

    def __init__(self, vision: CTViT, voxels: Tensor) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # A capture must not be the first run: libraries make their handles and workspaces in it.
        stream: Any = torch.cuda.Stream  # without types
        side = stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                vision(voxels)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph):
            self._outputs = vision(voxels)

    def replay(self) -> None:
        self._graph.replay()

    def codes_agree(self, codes: Tensor) -> float:
        """Share of its last replay's codes that are these."""
        torch.cuda.synchronize()
        return float((self._outputs[2] == codes).float().mean())


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
    rows.add("text fp32, eager", times["text"], settings=settings)


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

    expected = vision.nearest_codes(tokens)
    share = float((in_two_steps() == expected).float().mean())
    works: dict[str, Work] = {
        "float32": lambda: vision.nearest_codes(tokens),
        "bfloat16, best 8 again in float32": in_two_steps,
    }
    for name, agree in (("float32", 1.0), ("bfloat16, best 8 again in float32", share)):
        parity = Parity("PASS" if agree >= 0.999 else "FAIL", "nearest codes in float32", agree)
        rows.add(
            f"code search, {name}", _times(subject, {name: works[name]})[name], parity=parity,
            counted=False, settings={"tokens": len(tokens), "codes": len(book)},
        )  # fmt: skip


def _widths(subject: Subject, rows: Rows) -> None:
    """Both products of a feed-forward part in bfloat16, at widths that the device may prefer."""
    config = subject.reference.config.vision
    count, width = _count(config.token_shape), config.width
    works: dict[str, Work] = {}
    for hidden in _WIDTHS:
        tokens, inner = (_random(subject, count, size) for size in (width, hidden))
        works[str(hidden)] = _products(
            [tokens, inner],
            [_random(subject, 2 * hidden, width), _random(subject, width, hidden)],
        )
    for name, milliseconds in _times(subject, works).items():
        settings = {"precision": "bf16", "width": int(name), "tokens": count}
        rows.add(f"feed-forward products bf16, width {name}", milliseconds, settings=settings)


def _products(inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> Work:
    return lambda: [F.linear(x, w) for x, w in zip(inputs, weights, strict=True)]


def _random(subject: Subject, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, device=subject.device, dtype=torch.bfloat16)


def _count(shape: Sequence[int]) -> int:
    return shape[0] * shape[1] * shape[2]
