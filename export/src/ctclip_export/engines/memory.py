"""Whether a GPU has room for what Triton will hold there with the engines."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ctclip_client.errors import InvalidInput
from ctclip_client.release.engines import EngineRecord
from ctclip_client.release.gpu_memory import (
    CUDA_CONTEXT_BYTES,
    CUDA_POOL,
    arenas,
    binding_bytes,
    pools,
)
from ctclip_export.engines.gpu import Gpu
from ctclip_export.engines.target import EngineError

CONFIG_NAME = "tensorrt"
"""The configs by which Triton serves engines."""


def check_memory(records: Mapping[str, EngineRecord], gpu: Gpu, repository: Path) -> None:
    """Triton takes nearly all of it when it loads the models, and could not load them later.

    Counted are weights and contexts of the engines (records, by model) with the inputs and outputs
    of their largest batch, Triton's pool, what ONNX Runtime holds at least for the other models,
    and CUDA itself.
    Raises: EngineError if that is more than the GPU has; InvalidInput for a variable or a config
    that cannot be read.
    """
    try:
        parts = {
            "engines": sum(
                record.layers.get("activation_bytes", 0)
                + record.layers.get("weights_bytes", 0)
                + binding_bytes(repository, model, CONFIG_NAME)
                for model, record in records.items()
            ),
            "Triton's pool": pools(repository, CONFIG_NAME, os.environ).cuda_bytes,
            "ONNX Runtime": arenas(repository, CONFIG_NAME).least_bytes,
            "CUDA itself": CUDA_CONTEXT_BYTES,
        }
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"engines: the GPU memory they need cannot be told: {error}.",
            "Nothing was placed. Mend that, or export the repository again.",
        ) from error
    total = sum(parts.values())
    if total > gpu.memory_bytes:
        said = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
        raise EngineError(
            f"engines: Triton would need {_gib(total)} GiB of GPU memory at least ({said}); "
            f"{gpu.name} has {_gib(gpu.memory_bytes)} GiB.",
            f"Nothing was placed. Export with --precision fp16, set {CUDA_POOL} to a smaller pool, "
            "or serve on a larger GPU.",
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
