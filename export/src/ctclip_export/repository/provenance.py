"""Where every file of a repository came from, written beside it as `provenance.json`."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import onnxruntime

from ctclip_client.contract import VERSION
from ctclip_client.release.records import PROVENANCE
from ctclip_export.repository.source import ExportSource

_TOOLS = ("ctclip-export", "onnx", "onnxscript", "torch")


def release_record(
    source: ExportSource, file_sha256: Mapping[str, str], ranges: Mapping[str, object] | None
) -> dict[str, Any]:
    """What PROVENANCE tells a client. file_sha256: of each model's file by the model's name, of
    further files by MODEL/FILE.

    Of the checkpoint only the file's name is told, never its folder. The release's name is a digest
    of everything that can change an answer, so that two exports have the same name exactly if they
    hold the same files made from the same things.
    """
    checkpoint, geometry, dimensions = source.checkpoint, source.geometry, source.dimensions
    record: dict[str, Any] = {
        "contract_version": VERSION,
        "checkpoint": {
            "name": checkpoint.path.name,
            "sha256": checkpoint.sha256,
            "variant": checkpoint.variant,
            "random_weights": checkpoint.random_weights,
        },
        "geometry": {
            "volume_shape": list(geometry.volume_shape),
            "target_spacing_mm": list(geometry.target_spacing_mm),
            "token_shape": list(dimensions.token_shape),
        },
        "precision": source.precision,
        "findings": [prompt.finding for prompt in source.prompts],
        "prompts": [asdict(prompt) for prompt in source.prompts],
    }
    if checkpoint.classifier is not None:
        record["classes"] = list(checkpoint.classes)
    if checkpoint.head is not None:
        record["head"] = checkpoint.head.told()
    if checkpoint.classfine_sha256 is not None:
        record["checkpoint"]["classfine_sha256"] = checkpoint.classfine_sha256
    if ranges is not None:
        record["calibration"] = dict(ranges)
    name = release_name(record, source.text_model.vocabulary_sha256, file_sha256)
    return {"release": name, **record}


def release_name(
    record: Mapping[str, Any], vocabulary_sha256: str, file_sha256: Mapping[str, str]
) -> str:
    """A digest of a release's record (without its name), vocabulary and files."""
    digest = hashlib.sha256()
    for part in (dict(record), vocabulary_sha256, dict(sorted(file_sha256.items()))):
        digest.update(json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def write_provenance(
    file: Path,
    digests: Mapping[str, str],
    release: Mapping[str, Any],
    vocabulary_sha256: str,
    parity: Sequence[Any],
) -> None:
    """Write `provenance.json` beside a model's file.

    digests: SHA-256 by name, of that file and of the further ones beside it.
    """
    further_files = {name: digest for name, digest in digests.items() if name != file.name}
    content: dict[str, Any] = {
        "release": release,
        "file": file.name,
        "file_sha256": digests[file.name],
        "vocabulary_sha256": vocabulary_sha256,
        "parity": list(parity),
        "tools": {
            **{name: _version(name) for name in _TOOLS},
            "onnxruntime": onnxruntime.__version__,  # its distribution may be onnxruntime-gpu
            "python": platform.python_version(),
        },
    }
    if further_files:
        content["further_files"] = further_files
    text = json.dumps(content, indent=1, ensure_ascii=False)
    file.with_name(PROVENANCE).write_text(text + "\n", encoding="utf-8")


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"  # run from its sources
