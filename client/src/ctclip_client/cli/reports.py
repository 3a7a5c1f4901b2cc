"""What `--report` of `ctclip predict` writes: a page for each scan, and an index of many."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import whole_file
from ctclip_client.system.terminal import say

if TYPE_CHECKING:
    from ctclip_client import Scan, Volume
    from ctclip_client.batch.journal import Journal
    from ctclip_client.batch.names import Key, Names
    from ctclip_client.cli.predictions import Prediction
    from ctclip_client.thresholds import Thresholds

_INDEX = "index.html"


@dataclass(frozen=True)
class Reports:
    """target: as it was given. index: the page of all scans, None where `target` is a page."""

    target: Path
    index: Path | None
    thresholds: Thresholds | None

    @property
    def file(self) -> Path:
        """What is opened first."""
        return self.index or self.target

    def pages(self, scans: Sequence[Scan], names: Names) -> dict[Key, Path]:
        """The page of each scan, named as the folder of its maps.

        Raises: InvalidInput where one file is to hold several scans, or one is named as the index.
        """
        from ctclip_client.batch.folders import folder_names

        if self.index is None:
            if len(scans) > 1:
                raise InvalidInput(
                    f"--report: got the file {self.target} for {len(scans)} scans, expected a "
                    "folder: each gets a page of its own.",
                    f"Name a folder, such as {self.target.with_suffix('')}/.",
                )
            return {names.key(scan): self.target for scan in scans}
        folders = folder_names(scans, names)
        pages = {key: self.target / f"{folder}.html" for key, folder in folders.items()}
        for scan in scans:
            if pages[names.key(scan)] == self.index:
                raise InvalidInput(
                    f"--report: the page of {scan.path} would be {self.index}, which is that of "
                    "all scans.",
                    "Rename the scan.",
                )
        return pages

    def write(self, page: Path, scan: Prediction, volume: Volume, relevance: Any | None) -> None:
        """Write the page of a scan. relevance: its maps (F, T, H', W') float32, or None.

        Raises: InvalidInput where it cannot be written, or thresholds are of other findings.
        """
        from ctclip_client.report.scan_page import Answer, scan_page

        answer = Answer(scan.path, scan.scores, scan.recipe(), scan.timings_ms, relevance)
        content = scan_page(answer, volume, self.thresholds)
        _make_folder(page.parent)
        with whole_file(page) as file:
            file.write(content)

    def write_index(self, journal: Journal | None, pages: Mapping[Key, Path]) -> None:
        """Write the page of all scans, those that failed among them, and where all of them did.

        Raises: InvalidInput where it cannot be written.
        """
        from ctclip_client.report.index_page import index_page

        if self.index is None or journal is None or not journal.entries:
            return
        content = index_page(
            [(row, pages[journal.key_of(row)]) for row in journal.rows(failed=True)],
            self.target, self.thresholds,
        )  # fmt: skip
        with whole_file(self.index) as file:
            file.write(content)

    def tell(self, journal: Journal | None, pages: Mapping[Key, Path]) -> None:
        """Say where to look, and what is missing there."""
        entries = {} if journal is None else journal.entries
        done = (key for key, entry in entries.items() if key in pages and not entry.kind)
        missing = sum(not pages[key].is_file() for key in done)
        if missing:
            say(
                f"note: pages are no longer in {self.target} (scans that were scored before: "
                f"{missing}); --again makes them anew"
            )
        if self.file.is_file():
            say(f"report: {self.file}")


def reports_of(args: argparse.Namespace) -> Reports | None:
    """What `--report` asks for, its folder made; None without it.

    Raises: InvalidInput where pages cannot be made: for want of a folder, or of Jinja2 or Pillow.
    """
    if args.report is None:
        if args.thresholds is not None:
            raise InvalidInput(
                "--thresholds has no place in a table or in files of results.",
                "Add --report FILE.html or --report DIR; ctclip evaluate --thresholds applies "
                "them to results.",
            )
        return None
    from ctclip_client.report.pages import require_jinja2
    from ctclip_client.report.pictures import require_pillow
    from ctclip_client.thresholds import read_thresholds

    require_jinja2()
    require_pillow()
    thresholds = args.thresholds and read_thresholds(args.thresholds)
    target: Path = args.report
    if target.suffix.lower() in (".html", ".htm") and not target.is_dir():
        return Reports(target, None, thresholds)
    if target.exists() and not target.is_dir():
        raise InvalidInput(
            f"--report: got {target}, which is a file, expected a folder or FILE.html.",
            "Put --report after the scans' names, with a name of its own.",
        )
    _make_folder(target)
    return Reports(target, target / _INDEX, thresholds)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"--report: {folder}: {error.strerror or error}.",
            "Name a folder that you may write to.",
        ) from error
