"""Where every file of a repository came from, written beside it as `provenance.json`."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctclip_client.contract import PUBLISHED_FINDINGS, VERSION, Finding, Geometry
from ctclip_client.release.digest import sha256
from ctclip_client.release.records import PROVENANCE

_TOOLS = ("ctclip-export", "onnx", "onnxruntime", "onnxscript", "torch")


@dataclass(frozen=True)
class Origin:
    """What an export was made from. Only the checkpoint's file name is kept, never its folder.

    `classfine_sha256`: of a ClassFine file beside the checkpoint. `classes`: whether there is a
    ClassFine head. `ranges`: what int8's were taken from; no other precision has any.
    """

    checkpoint_name: str
    checkpoint_sha256: str
    variant: str
    classfine_sha256: str | None
    classes: bool
    random_weights: bool
    vocabulary_sha256: str
    geometry: Geometry
    token_shape: tuple[int, int, int]
    precision: str
    prompts: tuple[Finding, ...]
    ranges: Mapping[str, object] | None = None


def release_record(origin: Origin, file_sha256: Mapping[str, str]) -> dict[str, Any]:
    """What PROVENANCE tells a client. `file_sha256`: model name -> SHA-256 of its file.

    The release's name is a digest of everything that can change an answer, so that two exports have
    the same name exactly if they hold the same files made from the same things.
    """
    record: dict[str, Any] = {
        "contract_version": VERSION,
        "checkpoint": {
            "name": origin.checkpoint_name,
            "sha256": origin.checkpoint_sha256,
            "variant": origin.variant,
            "random_weights": origin.random_weights,
        },
        "geometry": {
            "volume_shape": list(origin.geometry.volume_shape),
            "target_spacing_mm": list(origin.geometry.target_spacing_mm),
            "token_shape": list(origin.token_shape),
        },
        "precision": origin.precision,
        "findings": [prompt.finding for prompt in origin.prompts],
        "prompts": [asdict(prompt) for prompt in origin.prompts],
    }
    if origin.classes:
        record["classes"] = [entry.finding for entry in PUBLISHED_FINDINGS]
    if origin.classfine_sha256 is not None:
        record["checkpoint"]["classfine_sha256"] = origin.classfine_sha256
    if origin.ranges is not None:
        record["calibration"] = dict(origin.ranges)
    name = release_name(record, origin.vocabulary_sha256, file_sha256)
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
    folder: Path, release: Mapping[str, Any], origin: Origin, file: Path, parity: Sequence[Any]
) -> None:
    """Write `provenance.json` into a model's version folder, for the file that lies there."""
    content = {
        "release": release,
        "file": file.name,
        "file_sha256": sha256(file),
        "vocabulary_sha256": origin.vocabulary_sha256,
        "parity": list(parity),
        "tools": {name: version(name) for name in _TOOLS} | {"python": platform.python_version()},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")
