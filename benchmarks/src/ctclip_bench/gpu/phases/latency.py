"""The encoders in PyTorch on the device: precisions, batches, CUDA graphs, memory, code search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ctclip_bench.gpu.rows import Rows
from ctclip_bench.gpu.subject import Subject, encoder, parity_if
from ctclip_bench.graphs.torch_runner import TorchRunner
from ctclip_export.model import CTViT
from ctclip_export.parity.judge import BOUNDS

BATCHES = (1, 2, 4, 8)
_GRAPHED = (1, 4)
"""Batches that are replayed as a CUDA graph, too: each keeps memory of its own."""
_OUTPUTS = ("TOKENS", "IMAGE_EMBEDDING", "CODES")


def measure(subject: Subject, rows: Rows) -> None:
    """Medians of what took turns."""
    with torch.no_grad():
        for precision in ("fp32", "fp16", "bf16"):
            for batch in BATCHES if subject.cuda else BATCHES[:2]:
                with rows.attempt(f"vision {precision}, batch {batch}"):
                    _vision(subject, rows, precision, batch)
        with rows.attempt("text"):
            _text(subject, rows)
        with rows.attempt("code search"):
            _code_search(subject, rows)


def _vision(subject: Subject, rows: Rows, precision: str, batch: int) -> None:
    vision = subject.vision(precision)
    encode = encoder(vision)
    voxels = torch.cat([subject.volume(seed) for seed in range(batch)])
    encode(voxels)  # the first run is the libraries', which make their workspaces in it
    peak = _peak_gib(subject, vision, voxels)
    feed = {"VOXELS": voxels.cpu().numpy()}
    del voxels
    runners = {"eager": TorchRunner(encode, _OUTPUTS, subject.device)}
    runners["eager"].bind(feed)
    if subject.cuda and batch in _GRAPHED:
        with rows.attempt(f"vision {precision}, batch {batch}, CUDA graph"):
            captured = TorchRunner(encode, _OUTPUTS, subject.device, "CUDA graph")
            captured.bind(feed)
            runners["CUDA graph"] = captured
    times = subject.times({mode: runner.run for mode, runner in runners.items()})
    found = {mode: runner.outputs() for mode, runner in runners.items()}
    for mode, outputs in found.items():
        more: dict[str, Any] = {"peak_gib": peak}
        if mode == "CUDA graph":
            same = outputs["CODES"] == found["eager"]["CODES"]
            more = {"codes_equal_eager": float(same.mean())}
        said = subject.answers(torch.from_numpy(outputs[name]) for name in _OUTPUTS)
        seeds = sorted({0, batch - 1})  # the judge takes half a second for each
        rows.add(
            f"vision {precision}, batch {batch}, {mode}", times[mode],
            parity=subject.verdict(precision, [said[seed] for seed in seeds], seeds),
            settings={"precision": precision, "batch": batch, "mode": mode}, **more,
        )  # fmt: skip


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
    times = subject.times({"text": lambda: text(ids, mask)})
    settings = {"sentences": len(ids), "tokens": ids.shape[1], "precision": "fp32"}
    parity = subject.text_parity(text(ids, mask))
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
    times = subject.times(works)
    for name, search in works.items():
        agree = float((search().cpu() == expected).float().mean())
        against = "nearest codes in float32 on the CPU"
        rows.add(
            f"code search, {name}", times[name],
            parity=parity_if(agree >= BOUNDS["fp32"].codes, against, codes_agree=agree),
            settings={"tokens": len(tokens), "codes": len(book)},
        )  # fmt: skip
