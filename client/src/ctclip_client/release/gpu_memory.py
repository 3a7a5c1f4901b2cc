"""What a repository takes of a GPU's memory: Triton's pools, ONNX Runtime's arenas, engines.

Computed from its own configs, so that another geometry, batch or queue is right by itself. Imports
the standard library only: the container image takes this file as it is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LARGEST_SCAN_BYTES = 2 * 512 * 512 * 1617
"""VOLUME (int16) of the largest scan of CT-RATE's validation set."""
CUDA_CONTEXT_BYTES = 512 * 2**20
"""Set aside for CUDA's context and the workspaces of cuBLAS and cuDNN. A guess: not measured."""
CUDA_POOL, PINNED_POOL = "CTCLIP_CUDA_POOL_BYTES", "CTCLIP_PINNED_POOL_BYTES"
"""Variables with which a site chooses other sizes: 0, no pool, or SMALLEST_POOL_BYTES and more."""
SMALLEST_POOL_BYTES = 2**20
"""With a pinned pool of a few bytes Triton's PinnedMemoryManager fails."""

_VISION, _PREPROCESS = "ctclip_vision", "ctclip_preprocess"
_BYTES = {"BOOL": 1, "FP16": 2, "INT16": 2, "FP32": 4, "INT32": 4, "FP64": 8, "INT64": 8}
_TENSOR = re.compile(r'name:\s*"(\w+)"\s*,?\s*data_type:\s*TYPE_(\w+)\s*,?\s*dims:\s*\[([^\]]*)\]')


@dataclass(frozen=True)
class Pools:
    """cuda_bytes: for VOXELS between preprocessing and image encoder, and one scan. pinned_bytes:
    host memory for what crosses between host and GPU. voxels: how many a full queue comes to, of
    voxels_bytes each.
    """

    cuda_bytes: int
    pinned_bytes: int
    voxels: int
    voxels_bytes: int

    @property
    def room(self) -> int:
        """How many VOXELS the CUDA pool holds beside one scan."""
        return max(self.cuda_bytes - LARGEST_SCAN_BYTES, 0) // self.voxels_bytes


def pools(repository: Path, config_name: str, environment: Mapping[str, str]) -> Pools:
    """Pools that a full queue of the image encoder fits into, or of the sizes that variables of the
    environment name.

    VOXELS are alive in the queue, in the batch that is computed, in the buffer that a batch of
    several is gathered into, and in the one that preprocessing writes. Triton takes that buffer and
    the outputs of ensemble steps from its CUDA pool, which does not grow; what does not fit goes
    through host memory. From the sources of Triton's core (cuda_memory_manager.cc) and backends
    (backend_input_collector.cc). That Triton ever takes a scan's VOLUME from the CUDA pool was read
    there, not seen: one is counted so that it takes no VOXELS' place.

    Raises: OSError; ValueError for a variable or a config that cannot be understood.
    """
    vision, preprocess = (_config(repository, name, config_name) for name in (_VISION, _PREPROCESS))
    sizes = {name: size for name, size in _tensors(vision) if name == "VOXELS"}
    if not sizes:
        raise ValueError(f"the config of {_VISION} has no input VOXELS")
    voxels_bytes = sizes["VOXELS"]
    batch = max(_number(vision, "max_batch_size", 0), 1)
    computed = _number(vision, "count", 1) * batch * (2 if batch > 1 else 1)
    queue = _number(vision, "max_queue_size", 0)
    if not queue:
        raise ValueError(f"the config of {_VISION} has no max_queue_size")
    voxels = queue + computed + _number(preprocess, "count", 1)
    cuda, pinned = (_asked(environment, variable) for variable in (CUDA_POOL, PINNED_POOL))
    return Pools(
        voxels * voxels_bytes + LARGEST_SCAN_BYTES if cuda is None else cuda,
        batch * voxels_bytes + LARGEST_SCAN_BYTES if pinned is None else pinned,
        voxels=voxels,
        voxels_bytes=voxels_bytes,
    )


@dataclass(frozen=True)
class Arenas:
    """What models that ONNX Runtime runs on the GPU hold. least_bytes: weights, inputs and outputs.
    likely_bytes: inputs and outputs twice, since an arena grows to the next power of two and so
    holds up to twice what is used. What graphs need in between is in neither: no file tells it.
    """

    least_bytes: int
    likely_bytes: int


def arenas(repository: Path, config_name: str) -> Arenas:
    """Those of all models together. Raises: OSError."""
    weights_bytes = batches_bytes = 0
    for name, text in _on_gpu(repository, config_name, "onnxruntime"):
        file = "".join(re.findall(r'default_model_filename:\s*"([^"]+)"', text)) or "model.onnx"
        weights_bytes += sum(_size(repository / name / each / file) for each in _versions(text))
        batches_bytes += _largest_batch_bytes(text)
    return Arenas(weights_bytes + batches_bytes, weights_bytes + 2 * batches_bytes)


def engine_bytes(repository: Path, config_name: str) -> int:
    """What TensorRT plans that lie in the repository hold: weights, context, inputs and outputs.

    Raises: OSError.
    """
    total = 0
    for name, text in _on_gpu(repository, config_name, "tensorrt"):
        total += binding_bytes(repository, name, config_name)
        for version in _versions(text):
            folder = repository / name / version
            total += _size(folder / "model.plan")
            try:
                layers = json.loads((folder / "engine.json").read_text(encoding="utf-8"))["layers"]
                total += int(layers["activation_bytes"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not told by the build, or another release's
    return total


def binding_bytes(repository: Path, model: str, config_name: str) -> int:
    """Inputs and outputs of a model's largest batch, which Triton's TensorRT backend keeps.

    Raises: OSError.
    """
    return _largest_batch_bytes(_config(repository, model, config_name))


def _asked(environment: Mapping[str, str], variable: str) -> int | None:
    """None where the variable is not set, or empty."""
    text = environment.get(variable, "")
    if not text:
        return None
    size = int(text) if text.isascii() and text.isdecimal() else -1
    if size != 0 and size < SMALLEST_POOL_BYTES:
        raise ValueError(
            f"{variable}: got '{text}', expected a number of bytes: 0 (no pool), or "
            f"{SMALLEST_POOL_BYTES} (1 MiB) and more"
        )
    return size


def _on_gpu(repository: Path, config_name: str, backend: str) -> list[tuple[str, str]]:
    """Names and configs of the models that a backend runs where there is a GPU."""
    found = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        text = _config(repository, path.parent.name, config_name)
        if f'backend: "{backend}"' in text and "KIND_CPU" not in text:
            found.append((path.parent.name, text))
    return found


def _config(repository: Path, model: str, config_name: str) -> str:
    """The text of the config that Triton takes."""
    folder = repository / model
    variant = folder / "configs" / f"{config_name}.pbtxt"
    chosen = variant if config_name and variant.is_file() else folder / "config.pbtxt"
    return chosen.read_text(encoding="utf-8")


def _tensors(config: str) -> list[tuple[str, int]]:
    """Name and bytes of every input and output of one request; a free axis counts as 1."""
    found = []
    for name, dtype, dims in _TENSOR.findall(config):
        elements = math.prod(max(int(dim), 1) for dim in dims.split(",") if dim.strip())
        size = LARGEST_SCAN_BYTES if name == "VOLUME" else elements * _BYTES.get(dtype, 0)
        found.append((name, size))
    return found


def _largest_batch_bytes(config: str) -> int:
    batch = max(_number(config, "max_batch_size", 0), 1)
    return batch * sum(size for _, size in _tensors(config))


def _versions(config: str) -> list[str]:
    found = re.search(r"versions:\s*\[([^\]]*)\]", config)
    return re.findall(r"\d+", found.group(1)) if found else []


def _number(config: str, field: str, default: int) -> int:
    found = re.search(rf"\b{field}:\s*(\d+)", config)
    return int(found.group(1)) if found else default


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
