"""What goes into the code search, where the graph or model that is timed does not show it.

For judging: it tells a runtime's error of the similarity, and so which codes it may choose
otherwise. A graph with one more output is another graph, so none of this is ever timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ctclip_bench.graphs.runners import Runner
from ctclip_export.parity.runtimes import searched_tokens

Voxels = Sequence[NDArray[np.float32]]
"""VOXELS (1, 1, D, H, W) of some volumes."""
Tokens = list[NDArray[np.float32]]
"""Unit tokens (N, W) of each volume."""


def tokens_of_graph(path: Path, make: Callable[[Path], Runner], volumes: Voxels) -> Tokens:
    """By the vision graph with one more output, in the runtime that `make` loads it into."""
    with tempfile.TemporaryDirectory(prefix="ctclip-tokens-", ignore_cleanup_errors=True) as folder:
        model = onnx.load(path)
        name = searched_tokens(model.graph)
        model.graph.output.append(onnx.ValueInfoProto(name=name))
        visible = Path(folder) / "model.onnx"
        onnx.save(model, visible)
        del model
        runner = make(visible)
        found = []
        for voxels in volumes:
            runner.bind({"VOXELS": voxels})
            runner.run()
            shown = runner.outputs()[name]
            found.append(shown.reshape(-1, shown.shape[-1]).astype(np.float32))
    return found


@torch.no_grad()
def tokens_of_module(make: Callable[[], Any], device: str, volumes: Voxels) -> Tokens:
    """By the reference's vision encoder, or a typed twin of it, that `make` puts on the device."""
    vision, found = make(), []
    for voxels in volumes:
        stages = vision.stages(torch.from_numpy(voxels).to(device))
        shown = F.normalize(vision.to_grid(stages.temporal_tokens).float(), dim=-1)
        found.append(shown.flatten(0, 3).cpu().numpy())
    return found
