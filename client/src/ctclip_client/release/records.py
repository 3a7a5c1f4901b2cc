"""`provenance.json`, beside each model's file: where it came from, and the parity it was let in by.

`ctclip_export.repository.provenance` writes it; this is its only reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ctclip_client.contract import Finding, Geometry
from ctclip_client.release.json_records import WrongFieldError, damaged, parse, read_json

PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class CheckpointRecord:
    """What a release was exported from. random_weights: a demo, whose results mean nothing."""

    name: str
    sha256: str
    random_weights: bool


@dataclass(frozen=True, kw_only=True)
class ReleaseGeometry(Geometry):
    """What the vision model sees. token_shape: (T, H', W')."""

    # Again, because a record has to state what a geometry of one's own may leave out.
    volume_shape: tuple[int, int, int] = field()
    target_spacing_mm: tuple[float, float, float] = field()
    token_shape: tuple[int, int, int]


@dataclass(frozen=True)
class ReleaseRecord:
    """What PROVENANCE tells a client of a release.

    release: its name, a digest of everything that can change an answer. classes: of a trained head
    (ClassFine or linear); empty without one. content: all of it, as it was written.
    """

    release: str
    contract_version: int
    checkpoint: CheckpointRecord
    geometry: ReleaseGeometry
    precision: str
    findings: tuple[str, ...]
    prompts: tuple[Finding, ...]
    classes: tuple[str, ...] = ()
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The release's name."""
        return self.release


def digests_of_release(files: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """SHA-256 of every file that the release's name is a digest of, named as in that digest.

    Args:
        files: SHA-256 by file name, the model's own file first, by model: `ModelRecord.files`.

    Returns:
        Those of the models' own files by the model's name; those of further files by MODEL/FILE.
    """
    found = {}
    for model, ((_, own), *further) in ((name, each.items()) for name, each in files.items()):
        found[model] = own
        found |= {f"{model}/{name}": digest for name, digest in further}
    return found


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

    parity: of this model; empty for Python models, which compute nothing. further_files: SHA-256 by
    name of other forms of the graph, beside it.
    """

    file: str
    file_sha256: str
    vocabulary_sha256: str
    release: ReleaseRecord
    parity: tuple[ParityResult, ...]
    tools: Mapping[str, str]
    further_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 of everything that it describes, by the file's name; `file` comes first."""
        return {self.file: self.file_sha256, **self.further_files}

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
    try:
        record = parse(ModelRecord, content)
    except WrongFieldError as error:
        raise damaged(path, str(error)) from error
    for name in record.files:
        if Path(name).name != name:
            field_name = "file" if name == record.file else "further_files"
            raise damaged(path, f"{field_name}: got {name}, expected the name of a file beside it")
    if not record.release.prompts:
        raise damaged(path, "release.prompts: got [], expected a pair of sentences")
    return replace(record, release=replace(record.release, content=content["release"]))
