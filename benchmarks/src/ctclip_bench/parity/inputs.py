"""What a parity check is about: a release in a repository, scans, perhaps checkpoint and server."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from ctclip_client.contract import CHECK, ENSEMBLES, MODELS
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.prompts import sentences
from ctclip_client.release.digest import sha256
from ctclip_client.release.members import Members, pinned_version, read_members
from ctclip_client.release.records import ReleaseRecord, read_model_record
from ctclip_client.release.served_graphs import served_graphs_problem
from ctclip_client.system.files import special
from ctclip_client.transport.connection import Connection
from ctclip_export.checkpoint import read_text_model
from ctclip_export.parity.judge import Bounds, bounds_for
from ctclip_export.parity.runtimes import ONNX_RUNTIME_PRECISIONS
from ctclip_export.samples.scans import Scan


class NoVerdict(InvalidInput):
    """A check could not be carried out, for a reason that says nothing of the release."""


@dataclass(frozen=True)
class ParityInputs:
    """What every step needs to know; plain values, so that it can cross into another process.

    version: the one that the ensembles pin.
    connection: to a server that runs already; None = the embedded one, with `config_name`'s
    configs.
    """

    members: Members
    version: int
    release: ReleaseRecord
    scans: tuple[Scan, ...]
    checkpoint: Path | None = None
    text_model: Path | None = None
    connection: Connection | None = None
    config_name: str | None = None

    @property
    def repository(self) -> Path:
        return self.members.repository

    @property
    def bounds(self) -> Bounds:
        """What may differ in the release's precision, on its grid of codes."""
        return bounds_for(self.release.precision, math.prod(self.release.geometry.token_shape))

    @property
    def sentences(self) -> list[str]:
        """The bank: present, absent, present, absent, …"""
        return sentences(self.release.prompts)

    def file(self, model: str, name: str = "model.onnx") -> Path:
        """A file of the release's version of a model."""
        return self.members.folder(model, self.version) / name


def read_inputs(
    repository: Path,
    scans: Sequence[Scan],
    checkpoint: Path | None,
    text_model: Path | None,
    *,
    connection: Connection | None = None,
    config_name: str | None = None,
) -> ParityInputs:
    """What the repository says of the release that it serves.

    Raises: Unreadable; InvalidInput for another checkpoint or vocabulary than the export's.
    """
    members = read_members(repository)
    names = [*(model.name for model in MODELS), *(ensemble.name for ensemble in ENSEMBLES)]
    if missing := [name for name in names if name not in members.all]:
        raise Unreadable(
            f"--repository: {repository} has no '{missing[0]}' of an export.",
            "Name a whole repository of ctclip export; ctclip doctor DIR says what it lacks.",
        )
    version = pinned_version(members)
    record = read_model_record(members.folder(CHECK.name, version))
    release = record.release
    if checkpoint is not None:
        found = _sha256("--against", checkpoint)
        _check_same(f"--against: {checkpoint}", "checkpoint", found, release.checkpoint.sha256)
    if text_model is not None:
        # Another vocabulary of the same size raises no shape error: only its words are others.
        found = read_text_model(text_model).vocabulary_sha256
        _check_same(f"--text-model: {text_model}", "vocabulary", found, record.vocabulary_sha256)
    if config_name is None and release.precision not in ONNX_RUNTIME_PRECISIONS:
        config_name = "openvino"  # of the CPU backends the one that computes in it
    return ParityInputs(
        members, version, release, tuple(scans), checkpoint, text_model, connection, config_name
    )


def _check_same(where: str, what: str, found: str, known: str) -> None:
    if found != known:
        raise InvalidInput(
            f"{where} is not the {what} this repository was exported from (SHA-256 {found[:12]}…, "
            f"expected {known[:12]}…).",
            f"Name the {what} of the export, or export this one.",
        )


def changed_files(inputs: ParityInputs) -> str:
    """Names the files of the release that its records do not describe; "" if all are as exported.

    Both sides of a comparison would use them, or one of two configs, of which one is compared.
    Raises: Unreadable for one that is missing or cannot be read: nothing is known of it.
    """
    changed, problems = [], []
    for model in inputs.members.steps:
        folder = inputs.members.folder(model, inputs.version)
        record = read_model_record(folder)
        for file, expected in record.files.items():
            if _sha256("--repository", folder / file) != expected:
                _check_graph(folder / file)
                changed.append(f"{model}: {file}")
        configs = inputs.members.config_files(model)
        if problem := served_graphs_problem(folder, record, configs):
            problems.append(f"{model}: {problem}")
    if changed:
        problems.insert(0, f"{', '.join(changed)} is not the file that provenance.json describes")
    return "; ".join(problems)


def _check_graph(path: Path) -> None:
    """Refuse what is no other graph but a damaged one."""
    if path.suffix != ".onnx":
        return
    try:
        onnx.load(path)
    except Exception as error:  # protobuf's own, mostly
        raise Unreadable(
            f"--repository: {path} cannot be read as a graph ({error}).",
            "Export the repository again.",
        ) from error


def _sha256(option: str, path: Path) -> str:
    try:
        if kind := special(path):  # it is read twice
            raise InvalidInput(f"{option}: {path}: {kind}.", "Name a file.")
        return sha256(path)
    except OSError as error:
        raise Unreadable(
            f"{option}: {path}: {error.strerror or error}.", "Name the one of the export, whole."
        ) from error
