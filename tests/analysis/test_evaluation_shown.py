"""How an evaluation looks: in terminals of any width, on a page, with any names."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from ctclip_analysis.cli.scores import evaluate
from ctclip_analysis.evaluate.show import show
from ctclip_client.cli.program import parsed

from .evaluation_files import (
    FINDINGS,
    Files,
    Run,
    made,
    write_labels,
    write_long,
    write_wide,
)


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
def test_every_width_shows_every_number(width: int, folder: Path) -> None:
    args = parsed(["evaluate", "--predictions", "valid.csv", "--labels", "valid.labels.csv",
                   "--against", "int8.csv"])  # fmt: skip
    evaluation = evaluate(args)
    out = io.StringIO()
    show(Console(file=out, width=width, markup=False, highlight=False), evaluation)
    text = out.getvalue()
    assert "…" not in re.sub(r"\d …\s+[+-]", "", text)
    for each in evaluation.scored.findings:
        figure = each.figures["auroc"]
        for number in (figure.value, figure.low, figure.high):
            assert f"{number:.3f}" in text
        assert each.finding.split()[-1] in text


def test_few_cases_are_told(run: Run, folder: Path) -> None:
    files = Files(["a.nii", "b.nii"], np.array([[1, 1, 0], [0, 1, 1]], float),
                  np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.2]]))  # fmt: skip
    write_labels(folder / "l.csv", files)
    write_wide(folder / "p.csv", files)
    write_wide(folder / "q.csv", Files(files.names, files.labels, files.scores / 2))
    given = ("--predictions", "p.csv", "--labels", "l.csv", "--against", "q.csv")
    out = " ".join(run(*given, "--report", "p.html").split())
    for text in (out, (folder / "p.html").read_text()):
        assert "Fewer than 10 cases with or without it" in text
        assert "say little: Cardiomegaly, Emphysema." in text
        assert "of fewer than 10 patients" in text
        assert "No finding has many cases: the verdict may be due to chance" in text
    assert "Fewer than" not in run()


def test_one_scan_is_told_in_the_singular(run: Run, folder: Path) -> None:
    (folder / "p.csv").write_text("scan,Cardiomegaly\nvalid_1_a_1.nii.gz,0.5\n")
    (folder / "l.csv").write_text(",VolumeName,Cardiomegaly\n0,valid_1_a_1.nii.gz,1\n")
    out = run("--predictions", "p.csv", "--labels", "l.csv")
    assert out.startswith("1 file of 1 patient, 1 finding;")
    assert "Label columns that are no predicted finding: 1 (without a name)" in out


def test_the_page_is_whole_by_itself(run: Run, folder: Path) -> None:
    run("--predictions", "int8.csv", "--against", "valid.csv", "--report", "p.html", code=1)
    page = (folder / "p.html").read_text()
    assert "RESEARCH USE ONLY" in page
    assert "RANDOM WEIGHTS" in page
    assert "FAIL at 99.9%" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(pictures) == 2 + 3 * len(FINDINGS)
    assert all(b"<svg" in base64.b64decode(picture) for picture in pictures)
    assert len(page) < 2_000_000
    assert str(folder) not in page
    run("--predictions", "int8.csv", "--against", "valid.csv", "--report", "q.html", code=1)
    at = re.compile(r"Made \S+ by")
    assert at.sub("", (folder / "q.html").read_text()) == at.sub("", page)


def test_no_folder_stands_on_a_page(run: Run, folder: Path) -> None:
    """Pages are sent to others."""
    run("--fit-thresholds", "t.json", name="train")
    limits = str(folder / "t.json")
    result = run("--thresholds", limits, "--report", "p.html", "--json")
    assert result["thresholds"]["from"].startswith("t.json (fitted on release r1")
    page = (folder / "p.html").read_text()
    assert "Thresholds: t.json (fitted on" in page
    assert str(folder) not in page


def test_names_may_be_anything(run: Run, folder: Path) -> None:
    """Findings of one's own prompts, markup and other scripts among them."""
    names = ("a $x_1$ [bold] <script>alert(1)</script>", "肺結節", "nodule " * 20)
    files = made(23)
    write_wide(folder / "p.csv", files, names)
    write_labels(folder / "l.csv", files, names)
    out = run("--predictions", "p.csv", "--labels", "l.csv", "--report", "p.html")
    assert "[bold]" in out
    page = (folder / "p.html").read_text()
    assert "<script>" not in page
    assert "a $x_1$ [bold] &lt;script&gt;" in page
    (forest, *_) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    picture = base64.b64decode(forest).decode()
    assert "a $x_1$ [bold] &lt;script&gt;" in picture
    assert "肺結節" in picture


def test_names_cannot_turn_a_page_around(run: Run, folder: Path) -> None:
    """U+202E would reverse what follows; with a control character a picture is no XML."""
    names = ("a \u202e b", "c \x01 d", "e\udce4")
    files = made(23)
    write_long(folder / "p.csv", files, names, checkpoint="x\u202e.pt")
    some = Files(files.names, files.labels[:, :2], files.scores)
    write_labels(folder / "l.csv", some, names[:2])
    given = ("--predictions", "p.csv", "--labels", "l.csv", "--against", "p.csv")
    run(*given, "--report", "p.html")
    page = (folder / "p.html").read_text()
    assert all(character.isprintable() or character == "\n" for character in page)
    for shown in (r"a \x202e b", r"c \x01 d", r"e\xdce4", r"x\x202e.pt"):
        assert shown in page
    for picture in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page):
        text = base64.b64decode(picture).decode()
        assert ElementTree.fromstring(text).tag.endswith("svg")  # noqa: S314
        assert "\u202e" not in text
