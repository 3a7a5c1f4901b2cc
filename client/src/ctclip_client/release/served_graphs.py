"""Graphs that a server may load from a version folder, against those that its record describes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctclip_client.contract import MODELS
from ctclip_client.release.records import PROVENANCE, ModelRecord
from ctclip_client.release.repository import CONFIG, VARIANTS, backend_of, read_config

_BACKENDS = ("onnxruntime", "openvino")
_FURTHER_FILES = {model.name: model.further_files for model in MODELS}
_DEFAULT_FILES = {
    "onnxruntime": "model.onnx",
    "openvino": "model.xml",
    "python": "model.py",
    "tensorrt": "model.plan",
}


def file_of(config: Any) -> str:
    """File name that a config loads, stated or its backend's own; "" where neither is known."""
    return str(config.default_model_filename or _DEFAULT_FILES.get(backend_of(config), ""))


def served_graphs_problem(folder: Path, record: ModelRecord, configs: Iterable[Path]) -> str:
    """Why a server may load a graph from `MODEL/VERSION` that nobody compared; "" if it cannot.

    TensorRT plans have records of their own. Whether files are as recorded is not looked at.

    Args:
        folder: the version folder; its parent has the model's name.
        record: its `provenance.json`.
        configs: files of the model's configs that a server may be started with.

    Raises:
        Unreadable: a config is missing or damaged.
    """
    named: dict[str, str] = {}
    for path in configs:
        config = read_config(path)
        if config.default_model_filename and backend_of(config) in _BACKENDS:
            place = CONFIG if path.name == CONFIG else f"{VARIANTS}/{path.name}"
            named.setdefault(str(config.default_model_filename), place)
    for name, place in named.items():
        if not (folder / name).is_file():
            return f"{place} loads {name}, which is missing"
    # A config may choose those of the contract tomorrow.
    for name in (*named, *_FURTHER_FILES.get(folder.parent.name, ())):
        if name not in record.files and (folder / name).is_file():
            return f"{PROVENANCE} does not describe {name}: nobody compared it"
    return ""
