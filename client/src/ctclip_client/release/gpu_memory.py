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
"""Variables with which a site chooses other sizes."""
ARENA_GROWTH = 2
"""ONNX Runtime's arena grows to the next power of two, so it holds up to twice what is used."""

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
    (backend_input_collector.cc).

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
    return Pools(
        _asked(environment, CUDA_POOL) or voxels * voxels_bytes + LARGEST_SCAN_BYTES,
        _asked(environment, PINNED_POOL) or batch * voxels_bytes + LARGEST_SCAN_BYTES,
        voxels=voxels,
        voxels_bytes=voxels_bytes,
    )


def arena_bytes(repository: Path, config_name: str) -> int:
    """What models that ONNX Runtime runs on the GPU hold at least: weights, inputs and outputs.

    What their graphs need in between is known to no file. Raises: OSError.
    """
    total = 0
    for name, text in _on_gpu(repository, config_name, "onnxruntime"):
        file = "".join(re.findall(r'default_model_filename:\s*"([^"]+)"', text)) or "model.onnx"
        weights = sum(_size(repository / name / each / file) for each in _versions(text))
        total += weights + ARENA_GROWTH * _largest_batch_bytes(text)
    return total


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


def _asked(environment: Mapping[str, str], variable: str) -> int:
    text = environment.get(variable, "")
    if text and not (text.isascii() and text.isdecimal() and int(text)):
        raise ValueError(f"{variable}: got '{text}', expected a number of bytes")
    return int(text or 0)


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
