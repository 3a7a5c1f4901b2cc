"""The code blocks of the pages, and the files that they speak of."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from ctclip_client import Volume
from ctclip_client.contract import Geometry
from ctclip_export.samples.phantom import chest_phantom

from ..analysis.embedding_files import write_npz
from ..dicom_files import slices, tags, write
from ..nifti_files import save_volume
from .support import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

_BLOCK = re.compile(r"(<!-- example: [\w-]+ -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"<!-- file: ([\w.]+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GOES_ON = "# Goes on after"
SERIES = "1.2.840.113619.2.55.3.1"
"""Of docs/reading.md."""


@dataclass(frozen=True)
class Snippet:
    """A block of a page, or a line of one. line: where it begins, from 1."""

    page: Path
    line: int
    code: str

    def __str__(self) -> str:
        first = self.code.splitlines()[0]
        return f"{self.page.relative_to(ROOT)}:{self.line}: {first}"


def blocks(language: str) -> list[Snippet]:
    """All of a language. Those behind `<!-- example: … -->` have a test of their own
    (test_contract_page.py). Python that begins with "# Goes on after" has the block before it in
    front."""
    found: list[Snippet] = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            example, kind, code = match.groups()
            if example or kind != language:
                continue
            if code.startswith(_GOES_ON):
                code = f"{found[-1].code}\n{code}"
            found.append(Snippet(page, text.count("\n", 0, match.start(3)) + 1, code))
    return found


def commands() -> list[Snippet]:
    """Every `ctclip …` of the blocks for a shell, without what follows it in a pipe."""
    found = []
    for block in blocks("sh"):
        joined = re.sub(r"\\\n", lambda _: " \x00", block.code)  # keeps the count of lines
        line = block.line
        for text in joined.splitlines():
            own = re.search(r"(?:^|&& |; )(?:\.venv/bin/)?(ctclip [^|;&\x01]*)", text)
            if own and not text.startswith("#"):
                found.append(Snippet(block.page, line, own[1].replace("\x00", "").strip()))
            line += 1 + text.count("\x00")
    return found


def shown_files() -> dict[str, str]:
    """The files that docs/files.md shows: name to content."""
    return dict(_FILE.findall((ROOT / "docs" / "files.md").read_text(encoding="utf-8")))


def words(command: str) -> list[str]:
    """What the shell makes of it, without `ctclip`."""
    return shlex.split(command, comments=True)[1:]


def make_inputs(folder: Path, geometry: Geometry, repository: Path) -> Path:
    """The files that the pages name, under their names; those that a page shows are as there."""
    volumes = [chest_phantom(geometry, seed) for seed in range(2)]
    scans = folder / "scans"
    scans.mkdir(parents=True)
    for number, volume in enumerate(volumes):
        save_volume(scans / f"ct{number}.nii.gz", volume)
    (folder / "scan.nii.gz").symlink_to(scans / "ct0.nii.gz")
    (folder / "model_repository").symlink_to(repository)
    _write_disc(folder / "disc", volumes[0])
    _write_without_axes(folder, scans / "ct0.nii.gz")
    for name, content in shown_files().items():
        (folder / name).write_text(content)
    _write_cohort(folder, scans / "ct0.nii.gz")
    return folder


def _write_cohort(folder: Path, scan: Path) -> None:
    """Scans of the four patients of the page's reports and labels, named as CT-RATE's are; made up.
    Twenty more have labels and embeddings only: a head needs ten of each kind."""
    everybody = [f"valid_{patient}_a_1" for patient in range(1, 25)]
    names = everybody[:4]
    (folder / "valid").mkdir()
    for name in names:
        (folder / "valid" / f"{name}.nii.gz").symlink_to(scan)
    with (folder / "labels.csv").open("a") as labels_file:
        for n, name in enumerate(everybody[4:], 5):
            labels_file.write(f"{name}.nii.gz,P{n:03},{n % 2},{(n + 1) % 2}\n")
    (folder / "valid_predicted_labels.csv").symlink_to("labels.csv")
    (folder / "valid_labels.csv").symlink_to("labels.csv")
    labels = (folder / "labels.csv").read_text()
    for split in ("train", "test"):
        (folder / f"{split}_labels.csv").write_text(labels.replace("valid_", f"{split}_"))
    vectors = np.random.default_rng(0).normal(size=(len(everybody), 16))
    write_npz(folder / "scans.npz", everybody, vectors)
    (folder / "validation_reports.csv").symlink_to("reports.csv")


def _write_disc(folder: Path, volume: Volume) -> None:
    named = tags(SeriesInstanceUID=SERIES)
    files = slices(volume.voxels, volume.spacing_mm, rescale=volume.rescale, change=named)
    write(folder, files)


def _write_without_axes(folder: Path, scan: Path) -> None:
    """As upstream's files are: an array on its axes, with an empty header."""
    stored = np.asarray(nibabel.load(scan).dataobj).astype(np.int16)
    image = nibabel.Nifti1Image(stored, None)
    for name in ("noaxes.nii.gz", "valid_1_a_1.nii.gz"):
        nibabel.save(image, folder / name)
