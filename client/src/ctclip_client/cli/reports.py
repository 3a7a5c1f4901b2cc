"""What `--report` of `ctclip predict` writes: a page for each scan, and an index of many."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import whole_file
from ctclip_client.system.terminal import say

if TYPE_CHECKING:
    from ctclip_client import Scan, Volume
    from ctclip_client.batch.journal import Journal, Row
    from ctclip_client.batch.names import Key, Names
    from ctclip_client.batch.plan import Plan
    from ctclip_client.cli.predictions import Prediction
    from ctclip_client.thresholds import Thresholds

_INDEX = "index.html"
_LONGEST_NAME = 255
"""Bytes that a disk allows."""


@dataclass(frozen=True)
class Reports:
    """target: as it was given. index: the page of all scans, None where `target` is a page."""

    target: Path
    index: Path | None
    thresholds: Thresholds | None
    _written: set[Path] = field(default_factory=set, init=False)

    @property
    def file(self) -> Path:
        """What is opened first."""
        return self.index or self.target

    def pages(self, scans: Sequence[Scan], names: Names) -> dict[Key, Path]:
        """The page of each scan, named as the folder of its maps.

        Raises: InvalidInput where one file is to hold several scans, or one is named as the index,
            or has a name that is too long.
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
            page = pages[names.key(scan)]
            if page == self.index:
                raise InvalidInput(
                    f"--report: the page of {scan.path} would be {self.index}, which is that of "
                    "all scans.",
                    "Rename the scan.",
                )
            if (size := len(os.fsencode(page.name))) > _LONGEST_NAME:
                raise InvalidInput(
                    f"--report: the page of {scan.path} would have a name of {size} bytes, "
                    f"expected {_LONGEST_NAME} at most.",
                    "Rename the scan, or add --hash-names.",
                )
        return pages

    def check_free(
        self,
        plan: Plan,
        pages: Mapping[Key, Path],
        marks: Mapping[Key, str],
        names: Names,
        *,
        again: bool,
    ) -> None:
        """Refuse to replace a page of another scan, but where that scan gets a new one, too.

        marks: of all scans of the plan. again: these are scored anew. Raises: InvalidInput.
        """
        from ctclip_client.report.mark import read_mark

        if self.index is None:  # a file that is named is replaced, as every output
            return
        anew = set(marks.values()) if again else set()
        for scan in plan.todo:
            page, own = pages[names.key(scan)], marks[names.key(scan)]
            # Path.exists raises where a folder on the way cannot be looked into.
            if scan.refused is not None or not os.path.exists(page):  # noqa: PTH110
                continue
            try:
                there = read_mark(page)
            except OSError:  # nobody can tell
                there = None
            if there is not None and there.scan in {own, *anew}:
                continue
            name, what = names.path(scan.path), "no page of a scan"
            if there is not None:
                what = "the page of another scan" if names.hashed else f"the page of {there.title}"
                what += " in another place" if there.title == name else ""
            raise InvalidInput(
                f"--report: {page} is {what}, and that of {name} would replace it.",
                "Name another folder, or take that file away, as where the scans were moved.",
            )

    def write(
        self, page: Path, scan: Prediction, volume: Volume, relevance: Any | None,
        series: str | None = None, *, mark: str | None = None,
    ) -> None:  # fmt: skip
        """Write the page of a scan.

        relevance: its maps (F, T, H', W') float32, or None. series: as its row has it.
        mark: by which the scan is known again; that of its path where it has no other name.

        Raises: InvalidInput where it cannot be written, or thresholds are of other findings.
        """
        from ctclip_client.report.mark import Mark, answer_mark, scan_mark
        from ctclip_client.report.scan_page import Answer, scan_page

        own = mark or scan_mark(scan.path, series)
        told = str(Mark(own, answer_mark({**scan.answer, "series": series})))
        answer = Answer(scan.path, scan.scores, scan.recipe, scan.timings_ms, relevance, told)
        content = scan_page(answer, volume, self.thresholds)
        _make_folder(page.parent)
        with whole_file(page) as file:
            file.write(content)
        self._written.add(page)

    def end(self, journal: Journal | None) -> None:
        """Write the page of all scans, those that failed among them, and where all of them did;
        say where to look, and what is missing there.

        Raises: InvalidInput where it cannot be written.
        """
        from ctclip_client.report.index_page import index_page

        rows = [] if journal is None else list(journal.rows(failed=True))
        pages = [_page_of(row) for row in rows]
        if self.index is not None and rows:
            content = index_page(zip(rows, pages, strict=True), self.target, self.thresholds)
            with whole_file(self.index) as file:
                file.write(content)
            self._written.add(self.index)
        missing = sum(
            page is None and "error" not in row for row, page in zip(rows, pages, strict=True)
        )
        if missing:
            say(
                f"note: pages are no longer in {self.target} (scans that were scored before: "
                f"{missing}); --again makes them anew"
            )
        if self.file in self._written or self.file in pages:
            say(f"report: {self.file}")


def _page_of(row: Row) -> Path | None:
    """The page that a result was written to; None where it is gone, or is that of another one."""
    from ctclip_client.report.mark import answer_mark, read_mark

    if "error" in row:
        return None
    page = Path(row["report"])
    try:
        there = read_mark(page)
    except OSError:
        return None
    return page if there is not None and there.answer == answer_mark(row) else None


def is_page(target: Path) -> bool:
    """Whether `--report` names a page rather than a folder of pages."""
    return target.suffix.lower() in (".html", ".htm") and not target.is_dir()


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
    if is_page(target):
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
