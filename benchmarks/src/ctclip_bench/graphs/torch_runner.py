"""The PyTorch peers: the reference run well, eager, compiled, as a CUDA graph, and typed twins."""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctclip_client.contract import Geometry
from ctclip_export.graphs.quiet import quiet
from ctclip_export.precision.typed_twin import typed

if TYPE_CHECKING:
    from ctclip_bench.graphs.runners import Feed, Outputs, Tokens, Voxels  # imports onnxruntime

Function = Callable[..., Any]
"""Tensors in the order of a model's inputs -> a tensor, or several in the order of its outputs."""
_WARMUP = 3


def missing_compiler(device: str) -> str:
    """Why torch.compile cannot run here; "" if it can be tried.

    On a GPU kernels are made without one, but what calls them from Python is compiled, by Triton's
    language: with $CC, gcc or clang (not cc), against the headers of Python's own prefix.
    """
    if device != "cuda":
        found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        missing = "torch.compile needs a C++ compiler on a CPU: install g++, or set CXX"
        return "" if found else missing
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "torch.compile needs a C compiler on a GPU: install gcc, or set CC"
    if not Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file():
        return "torch.compile needs Python.h on a GPU: install Python's headers (python3-dev)"
    return ""


@contextmanager
def compiled_afresh() -> Iterator[None]:
    """Let torch.compile keep its files apart, and compile in this process: nothing is left behind,
    nothing is taken from an earlier run, and the time to compile is that of a first start.
    """
    with quiet():
        from torch._inductor import config, utils
    with (
        tempfile.TemporaryDirectory(prefix="ctclip-compile-", ignore_cleanup_errors=True) as folder,
        utils.fresh_cache(dir=folder),
        config.patch(compile_threads=1, cpp_cache_precompile_headers=False),  # kept elsewhere
    ):
        try:
            yield
        finally:
            torch.compiler.reset()


class TorchRunner:
    """One graph's function in PyTorch.

    compile_s: seconds of the first run of a compiled one, which compiles it; None before, and for
    the others.
    """

    def __init__(
        self, function: Function, names: Sequence[str], device: str = "cpu", mode: str = "eager"
    ) -> None:
        """names: of the outputs. mode: "eager", "compiled", or on a GPU "CUDA graph"."""
        self.compile_s: float | None = None
        self._function: Function = function
        if mode == "compiled":
            with quiet():  # it warns of itself
                self._function = torch.compile(function, dynamic=False)
        self._names, self._device, self._mode = names, device, mode
        self._inputs: tuple[Tensor, ...] = ()
        self._found: Any = ()
        self._graph: Any = None

    def bind(self, feed: Feed) -> None:
        """See `Runner`. feed: in the order of the function's arguments."""
        self._inputs = tuple(
            torch.tensor(np.ascontiguousarray(array), device=self._device)
            for array in feed.values()
        )
        if self._mode == "compiled" and self.compile_s is None:
            start = time.perf_counter()
            with quiet():
                self.run()
            if self._device == "cuda":
                torch.cuda.synchronize()
            self.compile_s = time.perf_counter() - start
        if self._mode == "CUDA graph":
            self._capture()

    def run(self) -> object:
        """See `Runner`."""
        if self._graph is not None:
            self._graph.replay()
            return None
        with torch.inference_mode():
            self._found = self._function(*self._inputs)
        return None

    def outputs(self) -> Outputs:
        """See `Runner`."""
        found = (self._found,) if isinstance(self._found, Tensor) else self._found
        return {name: tensor.cpu().numpy() for name, tensor in zip(self._names, found, strict=True)}

    @torch.inference_mode()
    def _capture(self) -> None:
        """Record the launches of one run, after a few on a stream aside, as PyTorch asks for."""
        aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARMUP):
                self._function(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._found = self._function(*self._inputs)
        self._graph = graph


def encoder_on(module: nn.Module, precision: str, device: str) -> nn.Module:
    """An encoder, or its typed twin, on a device; the reference itself on a CPU in float32."""
    chosen = module if precision == "fp32" else typed(module, precision)
    if device == "cuda" and chosen is module:
        chosen = typed(module, "fp32")  # a copy: the reference stays where it is
    return chosen.to(device).eval()


@torch.no_grad()
def tokens_of_module(make: Callable[[], Any], device: str, volumes: Voxels) -> Tokens:
    """By the reference's vision encoder, or a typed twin of it, that `make` puts on the device."""
    vision, found = make(), []
    for voxels in volumes:
        stages = vision.stages(torch.from_numpy(voxels).to(device))
        shown = F.normalize(vision.to_grid(stages.temporal_tokens).float(), dim=-1)
        found.append(shown.flatten(0, 3).cpu().numpy())
    return found


def fitted_float32(
    geometry: Geometry, voxels: Tensor, spacing_mm: Tensor, rescale: Tensor
) -> Tensor:
    """Preprocessing as one would write it in PyTorch to be quick: float32, one interpolation.

    Takes stored voxels int16 (z, x, y), spacing (3,) float64 in mm and rescale (2,) float32, and
    gives (1, 1, D, H, W) float32. The values are those of `ctclip_export.model.preprocess`, which
    computes in float64 as upstream does.
    """
    slope, intercept = rescale.tolist()
    hu = (voxels.float() * slope + intercept).clamp_(-1000, 1000)
    ratios = np.asarray(spacing_mm.tolist()) / np.asarray(geometry.target_spacing_mm)
    size = [int(count * ratio) for count, ratio in zip(voxels.shape, ratios, strict=True)]
    scaled = F.interpolate(hu[None, None], size, mode="trilinear", align_corners=False)
    out = scaled.new_full((1, 1, *geometry.volume_shape), -1.0)
    source, target = scaled[0, 0], out[0, 0]
    for axis, (have, want) in enumerate(zip(size, geometry.volume_shape, strict=True)):
        shown = min(have, want)
        source = source.narrow(axis, max((have - want) // 2, 0), shown)
        target = target.narrow(axis, max((want - have) // 2, 0), shown)
    target.copy_(source / 1000)
    return out
