"""The demo's checkpoint: random weights, a codebook fitted to a real CT."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from ctclip_bench.demo.codebook import CodeUsage, code_usage, fit_codebook
from ctclip_bench.demo.random_checkpoint import random_model, save_in_upstream_layout
from ctclip_bench.demo.sizes import DemoModel
from ctclip_client import Volume
from ctclip_client.contract import Geometry
from ctclip_client.system.files import placed
from ctclip_client.system.processor import has_bfloat16
from ctclip_client.system.progress import Advance, Stages
from ctclip_export.checkpoint.file import declared_random
from ctclip_export.graphs.preprocess import preprocess_graph
from ctclip_export.model import CTViT
from ctclip_export.precision.typed_twin import typed
from ctclip_export.samples.variations import thinned, vary

SEED = 20
FITTING_SEEDS_FROM = 1000
JUDGING_SEED = 1
"""Variations that the codebook is judged on come from other seeds than those it was fitted to."""


def make_checkpoint(demo: DemoModel, scan: Volume, path: Path, stages: Stages) -> CodeUsage:
    """Make the checkpoint at `path`, unless one fitted to as many tokens is there already; tell how
    its codebook spreads.

    The usage is measured on a variation of the scan that the codebook was not fitted to.
    """
    record = path.with_name(path.name + ".usage.json")
    if path.is_file() and declared_random(path).is_file() and record.is_file():
        usage = _read_usage(record)
        if usage.fitted_tokens >= demo.fitting_tokens:
            with stages.stage("Demo checkpoint: made earlier, reused"):
                return usage
    path.parent.mkdir(parents=True, exist_ok=True)
    preprocess = _Preprocess(demo.geometry)
    variations = range(FITTING_SEEDS_FROM, FITTING_SEEDS_FROM + demo.fitting_variations)
    size = demo.config.vision.codebook_size
    # The judging variation below stays as fine as the CT that is served.
    coarse = thinned(scan, demo.geometry.target_spacing_mm)

    quick: CTViT | None = None

    def fit(vision: CTViT) -> Tensor:
        nonlocal quick
        # Measured at the published geometry on a CPU with bfloat16: a variation takes 0.58 of the
        # time of float32, and every token's cosine with float32's is above 0.999. ONNX Runtime and
        # OpenVINO are no faster, and would need a graph of 700 MB first.
        quick = typed(vision, "bf16") if has_bfloat16() else vision
        with stages.stage("Demo checkpoint: encode variations of the CT", len(variations)) as step:
            scans = (preprocess(vary(coarse, seed)) for seed in variations)
            tokens = torch.cat([_tokens(quick, voxels, step) for voxels in scans])
        title = f"Demo checkpoint: fit {size:,} codes to {len(tokens):,} tokens"
        with stages.stage(title, demo.rounds) as step:
            return fit_codebook(tokens, size, SEED, demo.rounds, step)

    model = random_model(demo.config, SEED, fit)
    with stages.stage("Demo checkpoint: judge the codebook on another variation"):
        tokens = _tokens(quick or model.vision, preprocess(vary(scan, JUDGING_SEED)))
        usage = code_usage(tokens, model.vision.codebook, demo.fitting_tokens)
    with stages.stage("Demo checkpoint: write"):
        save_in_upstream_layout(model, path, SEED)
        with placed(record) as file:
            file.write(json.dumps(asdict(usage)).encode() + b"\n")
    return usage


class _Preprocess:
    """The exported preprocessing, without a repository around it."""

    def __init__(self, geometry: Geometry) -> None:
        self._session = onnxruntime.InferenceSession(
            preprocess_graph(geometry).SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def __call__(self, scan: Volume) -> Tensor:
        """VOXELS (1, 1, D, H, W)."""
        (voxels,) = self._session.run(None, scan.tensors())
        return torch.from_numpy(voxels)


@torch.no_grad()
def _tokens(vision: CTViT, voxels: Tensor, advance: Advance = lambda _: None) -> Tensor:
    """What the codebook sees of one volume: (T·R·C, W)."""
    _, temporal = vision.encode(vision.embed_patches(voxels))
    advance(1)
    return temporal.flatten(0, 1)


def _read_usage(record: Path) -> CodeUsage:
    content = json.loads(record.read_text(encoding="utf-8"))
    content.setdefault("fitted_tokens", 0)  # of an older demo, which did not tell
    content["margin_percentiles"] = {int(p): m for p, m in content["margin_percentiles"].items()}
    return CodeUsage(**content)
