"""The table of `ctclip predict`: all of every number, and nothing that steers the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ctclip_client.cli.predictions import Prediction
from ctclip_client.cli.program import main
from ctclip_client.cli.tables import TablePrinter, print_table
from ctclip_client.errors import InvalidInput
from ctclip_client.results import Classification, Provenance, Scores, Transport
from ctclip_client.system.terminal import printable
from ctclip_client.volume import Volume
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import chest, save

ESCAPES = "a\x1b[2Jb\nc\x9bd\u202ee"
SHOWN = "a\\x1b[2Jb\\x0ac\\x9bd\\x202ee"
LONG = "Ground glass opacities of both lower lobes with a crazy paving pattern"


def prediction(*findings: str, path: str = "scan.nii", word: str = "x") -> Prediction:
    count = len(findings)
    provenance = Provenance(
        word, word, "0" * 64, True, word, findings, (), (), 1, {}
    )  # fmt: skip
    logits = np.stack([np.linspace(-123.456, 12.5, count), np.full(count, -9.876)], 1)
    scores = Scores(
        findings,
        np.linspace(0.123, 0.987, count).astype(np.float32),
        np.zeros(4, np.float32),
        provenance,
        {"total": 1.0},
        Transport("shared_memory", 1),
        logits.astype(np.float32),
    )
    source = Volume.from_array(np.zeros((1, 2, 3), np.int16), (1, 1, 1), (1, 0)).source
    source = replace(source, orientation=word, hu_source=word, notes=(word,))
    return Prediction(path, scores, (1.0, 1.0, 1.0), (1.0, 0.0), source, 1.0)


def printed(scan: Prediction) -> str:
    out = io.StringIO()
    printer = TablePrinter(out)
    printer.show(scan)
    printer.close()
    return out.getvalue()


def words_of(text: str) -> str:
    """What is read from top to bottom, without the lines of the table."""
    return " ".join(text.translate(dict.fromkeys(map(ord, "│┃"), " ")).split())


@pytest.mark.parametrize("columns", [*range(18, 62), 80, 200])
def test_neither_a_number_nor_a_name_is_cut(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(prediction(LONG, "Atelectasis"))
    for number in ("0.123", "0.987", "-123.456", "12.500", "-9.876", "Probability", "absent"):
        assert number in text
    for word in (*LONG.split(), "Atelectasis"):
        assert word in words_of(text)
    assert "…" not in text


@pytest.mark.parametrize("columns", [20, 30, 40])
def test_no_other_commands_table_is_cut(columns: int) -> None:
    """Where a terminal has no room for it, the terminal wraps its lines."""
    table = Table("step", box=SIMPLE_HEAD)
    for name in ("codes", "cosine", "|Δprob.|"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_row("client, from a CT file at localhost:8001", "99.998%", "0.999999", "1.2e-06")
    out = io.StringIO()
    print_table(Console(file=out, width=columns), table)
    said = words_of(out.getvalue())
    for word in ("step", "client,", "localhost:8001", "99.998%", "0.999999", "1.2e-06", "|Δprob.|"):
        assert word in said


def test_nor_that_of_a_trained_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    scan = prediction(LONG, f"{LONG}, second")
    scores = scan.scores
    head = Classification(
        scores.findings, scores.probabilities, scores.image_embedding,
        scores.provenance, scores.timings_ms, scores.transport,
    )  # fmt: skip
    text = printed(replace(scan, scores=head))
    assert "0.123" in text
    assert "0.987" in text
    assert "Logit" not in text


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_what_is_said_of_a_scan_stays_below_its_name(
    columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = printed(prediction("Atelectasis", word="word " * 40))
    name, *lines = text.partition("╭")[0].splitlines()
    assert name == "scan.nii"
    assert len(lines) > 10
    assert all(line.startswith("  ") and len(line) <= columns for line in lines)
    assert "word word" in words_of(" ".join(lines))


def test_names_fold_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = printed(prediction(LONG))
    lines = [line for line in text.splitlines() if line.startswith("│") and line.count("│") == 5]
    assert " ".join(" ".join(line.split("│")[1] for line in lines).split()) == LONG
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_of_a_file_or_a_server_steers_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = printed(prediction(ESCAPES, path=ESCAPES, word=ESCAPES))
    # path, orientation, units, note, release, checkpoint, precision, finding
    assert text.count(SHOWN) == 8
    assert all(line.isprintable() for line in text.splitlines())


@pytest.mark.parametrize("options", [[], ["--json"], ["--csv", "out.csv"]])
def test_nor_does_a_name_on_the_command_line(
    options: list[str],
    misbehaving: EmbeddedTriton,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    odd = "a\x1b[2J\nerror: b.nii"
    save(Path(odd), chest(), (1.0, 0.7, 0.8))
    url = ["--url", misbehaving.grpc_url]
    assert main(["predict", odd, f"{odd}.gz", *options, *url]) == 3
    said = capsys.readouterr()
    for line in (*said.err.splitlines(), *said.out.splitlines()):
        assert line.isprintable()
        assert not line.startswith("error: b")
    assert printable(f"error: {odd}.gz: ") in said.err
    if options == ["--json"]:
        assert json.loads(said.out)["path"] == odd
    if options:
        assert printable("RANDOM WEIGHTS") in said.err
    if options == ["--csv", "out.csv"]:
        assert f'"{odd}"' in Path("out.csv").read_text()
    assert main(["predict", "scan.nii", "--prompts", odd]) == 2
    assert printable(f"error: {odd}: not JSON") in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["predict", "scan.nii", "--\x1b[2J"])
    assert "\x1b" not in capsys.readouterr().err


def test_several_causes_come_one_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a server whose models do not load; what is no such cause begins no line."""

    def refuse(*_: object) -> int:
        cause = "'a' does not load: x\n       'b' does not load: y\nerror: z"
        raise InvalidInput(cause, "Fix it.")

    monkeypatch.setattr("ctclip_client.cli.program._run", refuse)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: 'a' does not load: x",
        "       'b' does not load: y\\x0aerror: z",
        "       Fix it.",
    ]
