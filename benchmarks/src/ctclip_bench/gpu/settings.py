"""What a measurement by phases is of; plain values, which cross into the worker's process."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ctclip_bench.demo.sizes import SMALL
from ctclip_client.contract import CHECK, PUBLISHED_FINDINGS, Finding, Geometry
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.members import pinned_version, read_members
from ctclip_client.release.records import ReleaseRecord, read_model_record

_PACKAGES = ("ctclip_client", "ctclip_export", "ctclip_server", "ctclip_bench")


@dataclass(frozen=True)
class Settings:
    """device: "cuda" or "cpu". runs: of what is timed. ct: of pack_ct.py; None draws a chest.

    repository, checkpoint, text_model: of an export, all three; without them a checkpoint of random
    weights is made in `work`, small or at the published geometry.
    work: keeps checkpoint and graphs, gigabytes of them, for the next time.
    """

    device: str = "cuda"
    small: bool = False
    runs: int = 30
    ct: Path | None = None
    repository: Path | None = None
    checkpoint: Path | None = None
    text_model: Path | None = None
    work: Path = Path("build/gpu")

    def check(self) -> None:
        """Raises: InvalidInput, Unreadable for what no phase could use."""
        given = [each for each in (self.repository, self.checkpoint, self.text_model) if each]
        if given and (len(given) < 3 or self.small):
            raise InvalidInput(
                "--repository, --against and --text-model go together here, and without --small: "
                "graphs are compared with PyTorch.",
                "Give all three, or none: a checkpoint of random weights is then made.",
            )
        for path in (*given, self.ct):
            if path is not None and not path.exists():
                raise Unreadable(f"{path}: there is no such file or folder.", "Name another.")
        _ = self.release, self.chest

    @cached_property
    def release(self) -> ReleaseRecord | None:
        """What the repository says of itself; None without one. Raises: Unreadable."""
        if self.repository is None:
            return None
        members = read_members(self.repository)
        return read_model_record(members.folder(CHECK.name, pinned_version(members))).release

    @property
    def geometry(self) -> Geometry:
        """What the vision model sees."""
        if self.release is not None:
            grid = self.release.geometry
            return Geometry(grid.volume_shape, grid.target_spacing_mm)
        return SMALL.geometry if self.small else Geometry()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The bank whose sentences the text encoder reads."""
        return PUBLISHED_FINDINGS if self.release is None else self.release.prompts

    @property
    def folder(self) -> Path:
        """Where checkpoint and graphs of these settings are kept, as this code makes them."""
        size = "small" if self.small else "published"
        of = size if self.release is None else self.release.name
        return self.work / "-".join([of, self.chest, self.device, self.code])

    @cached_property
    def chest(self) -> str:
        """Which one: "drawn", or the digest of --ct, whose name may name a patient.

        Raises: Unreadable.
        """
        if self.ct is None:
            return "drawn"
        try:
            return hashlib.sha256(self.ct.read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise Unreadable(f"--ct: {self.ct}: {error.strerror}.", "Name another.") from error

    @cached_property
    def code(self) -> str:
        """A digest of all packages that are here: what other code made, or measured, is not taken
        for what this code would.
        """
        digest = hashlib.sha256()
        for package in _PACKAGES:
            found = importlib.util.find_spec(package)
            if found is None or found.origin is None:  # it is not installed
                continue
            folder = Path(found.origin).parent
            for path in sorted(folder.rglob("*.py")):
                name = path.relative_to(folder.parent).as_posix()
                digest.update(name.encode() + path.read_bytes())
        return digest.hexdigest()[:8]

    def paths(self) -> tuple[Path | None, ...]:
        """Those that reasons may have in them, and results must not."""
        return self.ct, self.repository, self.checkpoint, self.text_model, self.work

    def plan(self) -> dict[str, Any]:
        """The flags that matter to a figure."""
        return {
            "device": self.device, "small": self.small, "runs": self.runs, "chest": self.chest,
            "code": self.code,
        }  # fmt: skip

    def subject(self) -> dict[str, Any]:
        """What is measured, as results say it."""
        about: dict[str, Any] = {"weights": "made for the measurement", "random_weights": True}
        if self.release is not None:
            about = {
                "release": self.release.name,
                "precision": self.release.precision,
                "random_weights": self.release.checkpoint.random_weights,
            }
        return {**about, "geometry": asdict(self.geometry)}


def graph_of_release(repository: Path, model: str, file: str = "model.onnx") -> Path:
    """A file of the version that the repository serves. Raises: Unreadable."""
    members = read_members(repository)
    path = members.folder(model, pinned_version(members)) / file
    if not path.is_file():
        raise Unreadable(f"--repository: there is no {path}.", "Export the repository again.")
    return path
