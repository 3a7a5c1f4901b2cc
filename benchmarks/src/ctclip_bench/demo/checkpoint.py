"""The demo's checkpoint: random weights, a codebook fitted to a real CT, a real vocabulary."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from ctclip_bench.demo.codebook import CodeUsage, code_usage, fit_codebook
from ctclip_bench.demo.random_checkpoint import random_model, save_in_upstream_layout
from ctclip_client import Volume
from ctclip_client.contract import Geometry
from ctclip_client.system.files import placed
from ctclip_client.system.processor import has_bfloat16
from ctclip_client.system.progress import Advance, Stages
from ctclip_export.checkpoint.file import declared_random
from ctclip_export.graphs.preprocess import preprocess_graph
from ctclip_export.model import CTViT, ModelConfig, TextConfig, VisionConfig
from ctclip_export.precision.typed_twin import typed
from ctclip_export.samples.variations import thinned, vary

SEED = 20
FITTING_SEEDS_FROM = 1000
JUDGING_SEED = 1
"""Variations that the codebook is judged on come from other seeds than those it was fitted to."""


@dataclass(frozen=True)
class DemoModel:
    """One size of the demo. The codebook is fitted to the tokens of `fitting_variations` of the CT,
    in so many `rounds` of k-means.
    """

    geometry: Geometry
    config: ModelConfig
    fitting_variations: int
    rounds: int

    @property
    def fitting_tokens(self) -> int:
        """Tokens that the codebook is fitted to."""
        return self.fitting_variations * math.prod(self.config.vision.token_shape)


PUBLISHED = DemoModel(Geometry(), ModelConfig(), fitting_variations=2, rounds=1)
"""27,648 tokens, which is quick. Measured on a variation that neither was fitted to, these beside
`MANY_TOKENS`: codes used 4,700 and 4,235, perplexity 3,118 and 2,666, median margin 0.033 and
0.031; share of codes that agree with float32 in bf16 0.9977 and 0.9979, in int8 0.9910 and 0.9933.
"""
MANY_TOKENS = replace(PUBLISHED, fitting_variations=8, rounds=3)
"""110,592 tokens: for checkpoints on which lower precisions are judged."""
_SMALL_SHAPE = (60, 100, 120)
SMALL = DemoModel(
    # The same field of view as published, 360 mm along every axis, on a coarser grid.
    Geometry(_SMALL_SHAPE, (6.0, 3.6, 3.0)),
    ModelConfig(
        VisionConfig(
            volume_shape=_SMALL_SHAPE, width=64, heads=4, head_width=16, hidden=170,
            spatial_layers=2, temporal_layers=2, codebook_size=256, embedding_size=32,
        ),
        TextConfig(width=48, layers=2, heads=4, hidden=96),
    ),
    fitting_variations=12,  # × 180 tokens
    rounds=8,
)  # fmt: skip


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


def write_text_model(config: TextConfig, vocabulary: Path, folder: Path) -> Path:
    """A text model's folder: BERT's `config.json` and the vocabulary. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.segment_types,
        "layer_norm_eps": config.layer_norm_eps,
    }
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
    return folder


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
