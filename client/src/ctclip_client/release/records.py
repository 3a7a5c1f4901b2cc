"""`provenance.json`, beside each model's file: where it came from, and the parity it was let in by.

`ctclip_export.repository.provenance` writes it; this is its only reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctclip_client.contract import Finding, Geometry
from ctclip_client.errors import Unreadable
from ctclip_client.release.fields import (
    EXPORT_AGAIN,
    LIST,
    NUMBER,
    OBJECT,
    TEXT,
    TEXT_BY_NAME,
    TEXTS,
    THREE_NUMBERS,
    THREE_WHOLE,
    TRUTH,
    WHOLE,
    complaint,
    read_json,
)

PROVENANCE = "provenance.json"

_MODEL = {
    "release": OBJECT,
    "file": TEXT,
    "file_sha256": TEXT,
    "vocabulary_sha256": TEXT,
    "parity": LIST,
    "tools": TEXT_BY_NAME,
}
_RELEASE = {
    "release": TEXT,
    "contract_version": WHOLE,
    "checkpoint": OBJECT,
    "geometry": OBJECT,
    "precision": TEXT,
    "findings": TEXTS,
    "prompts": LIST,
    "classes": TEXTS,
}
_CHECKPOINT = {"name": TEXT, "sha256": TEXT, "random_weights": TRUTH}
_GEOMETRY = {
    "volume_shape": THREE_WHOLE,
    "target_spacing_mm": THREE_NUMBERS,
    "token_shape": THREE_WHOLE,
}
_PROMPT = {"finding": TEXT, "present": TEXT, "absent": TEXT}
_RESULT = {
    "model": TEXT,
    "quantity": TEXT,
    "measured": NUMBER,
    "absolute": NUMBER,
    "relative": NUMBER,
}


@dataclass(frozen=True)
class CheckpointRecord:
    """What a release was exported from. random_weights: a demo, whose results mean nothing."""

    name: str
    sha256: str
    random_weights: bool


@dataclass(frozen=True)
class ReleaseRecord:
    """What PROVENANCE tells a client of a release.

    name: a digest of everything that can change an answer. token_shape: (T, H', W').
    classes: of a ClassFine head; empty without one. content: all of it, as it was written.
    """

    name: str
    contract_version: int
    checkpoint: CheckpointRecord
    geometry: Geometry
    token_shape: tuple[int, int, int]
    precision: str
    findings: tuple[str, ...]
    prompts: tuple[Finding, ...]
    classes: tuple[str, ...]
    content: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class ParityResult:
    """One quantity that the export compared with the reference: its largest difference.

    |got − expected| ≤ absolute + relative · |expected| held, element by element.
    """

    model: str
    quantity: str
    measured: float
    absolute: float
    relative: float

    @property
    def passed(self) -> bool:
        """Within its bound, as far as one number can tell."""
        return self.relative != 0 or self.measured <= self.absolute


@dataclass(frozen=True)
class ModelRecord:
    """One `provenance.json`. file: the name of the file beside it that it describes.

    parity: of this model; empty for Python models, which compute nothing.
    """

    file: str
    file_sha256: str
    vocabulary_sha256: str
    release: ReleaseRecord
    parity: tuple[ParityResult, ...]
    tools: Mapping[str, str]

    @property
    def parity_failure(self) -> str:
        """Why the export's comparisons do not let this model serve, in words; "" if they do."""
        if Path(self.file).suffix == ".onnx" and not self.parity:
            return "it has no parity results: it was never compared with the reference"
        for result in self.parity:
            if not result.passed:
                return f"{result.quantity}: {result.measured:.1e}, allowed {result.absolute:.1e}"
        return ""


def read_model_record(folder: Path) -> ModelRecord:
    """Read the `provenance.json` in `MODEL/VERSION`.

    Raises:
        Unreadable: missing or damaged; the cause names the field, got and expected.
    """
    path = folder / PROVENANCE
    content = read_json(path)
    if wrong := _complaint(content):
        raise Unreadable(f"{path} is damaged: {wrong}.", EXPORT_AGAIN)
    return ModelRecord(
        file=content["file"],
        file_sha256=content["file_sha256"],
        vocabulary_sha256=content["vocabulary_sha256"],
        release=_release(content["release"]),
        parity=tuple(
            ParityResult(**{name: entry[name] for name in _RESULT}) for entry in content["parity"]
        ),
        tools=content["tools"],
    )


def _complaint(content: Any) -> str:
    if wrong := complaint(content, _MODEL):
        return wrong
    if Path(content["file"]).name != content["file"]:
        return f"file: got {content['file']}, expected the name of a file beside it"
    release = content["release"]
    if wrong := complaint(release, _RELEASE, optional=frozenset({"classes"}), inside="release"):
        return wrong
    return (
        complaint(release["checkpoint"], _CHECKPOINT, inside="release.checkpoint")
        or complaint(release["geometry"], _GEOMETRY, inside="release.geometry")
        or next(
            (
                wrong
                for kinds, name, entries in (
                    (_PROMPT, "release.prompts", release["prompts"]),
                    (_RESULT, "parity", content["parity"]),
                )
                for index, entry in enumerate(entries)
                if (wrong := complaint(entry, kinds, inside=f"{name}[{index}]"))
            ),
            "",
        )
        or ("" if release["prompts"] else "release.prompts: got [], expected a pair of sentences")
    )


def _release(content: Mapping[str, Any]) -> ReleaseRecord:
    geometry, checkpoint = content["geometry"], content["checkpoint"]
    depth, height, width = geometry["volume_shape"]
    z, x, y = geometry["target_spacing_mm"]
    slabs, rows, columns = geometry["token_shape"]
    return ReleaseRecord(
        name=content["release"],
        contract_version=content["contract_version"],
        checkpoint=CheckpointRecord(**{name: checkpoint[name] for name in _CHECKPOINT}),
        geometry=Geometry((depth, height, width), (z, x, y)),
        token_shape=(slabs, rows, columns),
        precision=content["precision"],
        findings=tuple(content["findings"]),
        prompts=tuple(Finding(**{k: entry[k] for k in _PROMPT}) for entry in content["prompts"]),
        classes=tuple(content.get("classes", ())),
        content=content,
    )
