"""Which of a model's config files a running server was started with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctclip_client.release.repository import backend_of, read_config
from ctclip_client.release.served_graphs import file_of


def running_configs(files: Sequence[Path], running: Any) -> tuple[Path, ...]:
    """The files that the config of a running model may have come from, by what they say.

    Several where they differ in nothing that Triton tells: the server may have been started with
    any of them, so what is to change for it has to be written into all. A file that was edited
    since the server started may hide the right one; then the server does not load what was written,
    and the switch is put back.

    Args:
        files: all configs of the model.
        running: the server's ModelConfig message, in which Triton has filled in defaults.
    """
    differences = {path: _differences(read_config(path), running) for path in files}
    fewest = min(differences.values())
    return tuple(path for path, count in differences.items() if count == fewest)


def _differences(stated: Any, running: Any) -> int:
    """How many settings of a config differ from those that a model runs with."""
    largest = running.max_batch_size
    pairs = [
        (backend_of(stated), backend_of(running)),
        (stated.max_batch_size or largest, largest),
        (file_of(stated), file_of(running)),
        (_preferred_sizes(stated, largest), _preferred_sizes(running, largest)),
        (_parameters(stated), _parameters(running)),
    ]
    return sum(a != b for a, b in pairs)


def _preferred_sizes(config: Any, largest: int) -> list[int]:
    """Batch sizes that requests are joined to; where none is stated, the largest."""
    return list(config.dynamic_batching.preferred_batch_size) or [largest]


def _parameters(config: Any) -> dict[str, str]:
    return {name: entry.string_value for name, entry in config.parameters.items()}
