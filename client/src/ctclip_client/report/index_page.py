"""The page of many scans: what was found in each, and what failed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctclip_client.report.findings import FindingRow, finding_rows
from ctclip_client.report.pages import render
from ctclip_client.system.terminal import printable
from ctclip_client.thresholds import Thresholds

_TOP = 3


@dataclass(frozen=True)
class _Line:
    """link: to the page, relative; "" where there is none."""

    name: str
    series: str
    link: str
    findings: tuple[FindingRow, ...] = ()
    notes: tuple[str, ...] = ()
    error: tuple[str, str] | None = None


def index_page(
    rows: Iterable[tuple[Mapping[str, Any], Path | None]],
    folder: Path,
    thresholds: Thresholds | None,
) -> bytes:
    """Return the page, UTF-8.

    rows: of a journal, with the page of each, None where it is missing. folder: where this page
    will lie. Of each scan it
    shows the findings at their threshold or above; without thresholds, the most probable ones.
    """
    rows = list(rows)
    releases = {row["release"] for row, _ in rows if row.get("release")}
    random = any(
        row["provenance"]["checkpoint"]["random_weights"] for row, _ in rows if "error" not in row
    )
    lines = [_line(row, page, folder, thresholds) for row, page in rows]
    page = render(
        "ctclip_client.report", "index.html",
        random_weights=random, lines=lines, top=_TOP,
        method=None if thresholds is None else printable(thresholds.method),
        failed=sum(line.error is not None for line in lines),
        releases=sorted(map(printable, releases)),
    )  # fmt: skip
    return page.encode("utf-8", "backslashreplace")


def _line(
    row: Mapping[str, Any], page: Path | None, folder: Path, thresholds: Thresholds | None
) -> _Line:
    name, series = printable(row["path"]), printable(row["series"] or "")
    error = row.get("error")
    if error is not None:
        told = printable(error["cause"]), printable(error["remedy"])
        return _Line(name, series, "", error=told)
    found = finding_rows(
        [(each["finding"], each["probability"]) for each in row["findings"]], thresholds
    )
    shown = [each for each in found if each.above] if thresholds else found[:_TOP]
    link = quote(os.fsencode(page.relative_to(folder).as_posix())) if page else ""
    notes = tuple(map(printable, row["recipe"]["notes"]))
    return _Line(name, series, link, tuple(shown), notes)
