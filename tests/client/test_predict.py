"""`ctclip predict` and `ctclip` itself, as somebody types them."""

from __future__ import annotations

import contextlib
import csv
import gc
import json
import os
import pty
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ctclip_client import Client, Volume, read_volume
from ctclip_client.batch.tables import COLUMNS
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nifti_files import chest, copies, save

CTCLIP = [sys.executable, "-W", "error", "-m", "ctclip_client"]


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@contextmanager
def running(*arguments: object) -> Iterator[Any]:
    """The command in a process of its own, ended with the block."""
    process = subprocess.Popen(
        [*CTCLIP, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@pytest.fixture
def ctclip(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: object) -> Ran:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        text = capfd.readouterr()
        assert "Traceback" not in text.err
        return Ran(code, text.out, text.err)

    return run


@pytest.fixture
def scan(tmp_path: Path, golden: Golden) -> Path:
    phantom = chest_phantom(golden.geometry)
    return save(tmp_path / "scan [1].nii.gz", phantom.voxels, phantom.spacing_mm, "LAS")


@pytest.fixture
def predict(ctclip: Callable[..., Ran], server: EmbeddedTriton) -> Callable[..., Ran]:
    # The phantom's stored values are HU + 1024.
    options = ("--url", server.grpc_url, "--slope", 1, "--intercept", -1024)
    return lambda *arguments: ctclip("predict", *arguments, *options)


def test_a_table(predict: Callable[..., Ran], scan: Path) -> None:
    ran = predict(scan)
    assert ran.code == 0
    assert ran.err == ""
    lines = ran.out.replace("\n", " ")
    for entry in PUBLISHED_FINDINGS:
        assert entry.finding in ran.out
    for part in ("scan [1].nii.gz", "orientation LAS", "Hounsfield units: given: slope 1",
                 "not a diagnosis", "MB by shared memory", "checkpoint ctclip.pt"):  # fmt: skip
        assert part in lines
    assert "RANDOM WEIGHTS" not in ran.out


def test_json_is_the_contracts(
    predict: Callable[..., Ran], scan: Path, server: EmbeddedTriton
) -> None:
    ran = predict(scan, "--json")
    assert ran.code == 0
    content = json.loads(ran.out)
    assert set(content) == {
        "path", "findings", "provenance", "recipe", "timings_ms", "transport",
    }  # fmt: skip
    assert content["path"] == str(scan)
    volume = read_volume(scan, rescale=(1, -1024))
    notes = content["recipe"].pop("notes")
    assert set(content["recipe"].pop("seen_mm")) == {"z", "x", "y"}
    assert {**content["recipe"], "notes": []} == json.loads(json.dumps(volume.recipe()))
    short, narrow, cut = notes  # 54 mm along z; the model sees 45 of 50 mm along x
    assert "short for a chest" in short
    assert "narrow for a chest" in narrow
    assert "45 of 50 mm along x" in cut
    assert [line.partition(": ")[2] for line in ran.err.splitlines()] == [
        f"{scan}: {note}" for note in notes
    ]
    assert "note: The model sees only the middle" in " ".join(predict(scan).out.split())
    assert set(content["timings_ms"]) == {"read", "pack", "infer", "total"}
    assert content["transport"] == {"kind": "shared_memory", "bytes": volume.voxels.nbytes}
    with Client(server.grpc_url) as client:
        scores = client.pathologies(volume)
    assert [entry["finding"] for entry in content["findings"]] == list(scores.findings)
    for entry, probability, logits in zip(
        content["findings"], scores.probabilities, scores.logits, strict=True
    ):
        assert set(entry) == {"finding", "probability", "logit_present", "logit_absent"}
        assert entry["probability"] == pytest.approx(float(probability), abs=1e-5)
        assert entry["logit_present"] == pytest.approx(float(logits[0]), abs=1e-3)
        assert entry["logit_absent"] == pytest.approx(float(logits[1]), abs=1e-3)
    with_embedding = json.loads(predict(scan, "--json", "--embedding").out)
    np.testing.assert_allclose(
        with_embedding["image_embedding"], scores.image_embedding, rtol=0, atol=1e-5
    )


def test_files_and_prompts(predict: Callable[..., Ran], scan: Path, tmp_path: Path) -> None:
    bank = [{"finding": "Nodule; big", "present": "A nodule.", "absent": "No nodule."}]
    (tmp_path / "bank.json").write_text(json.dumps(bank))
    table, lines = tmp_path / "out.csv", tmp_path / "out.jsonl"
    (again,) = copies(scan, 1)
    files = ("--csv", table, "--jsonl", lines)
    ran = predict(scan, again, scan, "--prompts", tmp_path / "bank.json", *files)
    assert ran.code == 0
    assert ran.out == ""
    assert "plan: 2 scans, 2 to read" in ran.err
    assert "1 named more than once" in ran.err
    assert "2 scans: 2 scored, 0 failed" in ran.err
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert len(rows) == 2
    row = dict(zip(header, rows[0], strict=True))
    assert (row["path"], row["finding"]) == (str(scan), "Nodule; big")
    objects = [json.loads(line) for line in lines.read_text().splitlines()]
    objects.sort(key=lambda entry: entry["path"] != str(scan))  # they come as they are answered
    assert [entry["path"] for entry in objects] == [str(scan), str(again)]
    assert float(row["probability"]) == objects[0]["findings"][0]["probability"]
    assert row["random_weights"] == "false"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        again.name, "bank.json", "out.csv", "out.jsonl", scan.name,
    ]  # fmt: skip


def test_as_stored(predict: Callable[..., Ran], scan: Path) -> None:
    ran = predict(scan, "--json", "--as-stored", "--spacing", "2.5,0.7,0.8")
    recipe = json.loads(ran.out)["recipe"]
    assert recipe["orientation"] == "as stored"
    assert recipe["spacing_mm"] == [2.5, 0.7, 0.8]


def test_scans_that_fail_do_not_stop_the_others(
    predict: Callable[..., Ran], scan: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii"
    broken.write_bytes(scan.read_bytes()[:100])
    table = tmp_path / "out.csv"
    ran = predict(broken, scan, tmp_path / "absent.nii", "--json", "--csv", table)
    assert ran.code == 3
    assert json.loads(ran.out)["path"] == str(scan)
    assert ran.err.count("error: ") == 2
    assert f"error: {broken}: " in ran.err
    assert "3 scans: 1 scored, 2 failed" in ran.err
    before = table.read_text()
    assert before.count(str(scan)) == 18
    ran = predict(broken, "--csv", table)
    assert (ran.code, ran.out) == (2, "")
    assert table.read_text() == before  # a run without results replaces nothing


def test_scans_that_failed_are_not_kept(
    ctclip: Callable[..., Ran],
    misbehaving: EmbeddedTriton,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = save(tmp_path / "refused.nii", chest(), (11.0, 0.7, 0.8))
    seen: list[weakref.ref[Volume]] = []

    def read(*arguments: Any, **options: Any) -> Volume:
        gc.collect()
        alive = sum(volume() is not None for volume in seen)
        assert alive <= 2  # one is being scored, one may still be on its way out
        volume = read_volume(*arguments, **options)
        seen.append(weakref.ref(volume))
        return volume

    monkeypatch.setattr("ctclip_client.read_volume", read)
    options = ("--readers", 0, "--url", misbehaving.grpc_url)
    assert ctclip("predict", *copies(refused, 4), *options).code == 2
    assert len(seen) == 4


def test_nobody_there(ctclip: Callable[..., Ran], tmp_path: Path) -> None:
    path = save(tmp_path / "scan.nii", chest())
    ran = ctclip("predict", path, path, "--url", "localhost:1")
    assert (ran.code, ran.out) == (4, "")
    # Once, before any scan is read, and so about none of them.
    assert ran.err.startswith("error: localhost:1: no Triton answers there")
    assert ran.err.count("error: ") == 1 + ran.err.count("last error: ")
    assert "ctclip serve" in ran.err


def test_random_weights_are_shown_everywhere(
    ctclip: Callable[..., Ran], misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    path = save(tmp_path / "scan.nii", chest(), (1.0, 0.7, 0.8))  # z spacing 1: the good ask_for
    table = ctclip("predict", path, "--url", misbehaving.grpc_url)
    assert table.code == 0
    assert table.out.count("RANDOM WEIGHTS") == 2
    for option in ("--json", "--csv"):
        files = [tmp_path / "out.csv"] if option == "--csv" else []
        ran = ctclip("predict", path, option, *files, "--url", misbehaving.grpc_url)
        assert "RANDOM WEIGHTS" in ran.err
    ran = ctclip("predict", path, "--json", "--url", misbehaving.grpc_url)
    assert json.loads(ran.out)["provenance"]["checkpoint"]["random_weights"] is True
    assert (tmp_path / "out.csv").read_text().count(",fp32,true,") == 2


def test_a_server_that_keeps_its_geometry_to_itself_still_embeds(
    ctclip: Callable[..., Ran], misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    path = save(tmp_path / "scan.nii", chest(), (1.0, 0.7, 0.8))
    rows = tmp_path / "rows.jsonl"
    options = ("--readers", 0, "--url", misbehaving.grpc_url)
    assert ctclip("embed", "image", path, "--out", rows, *options).code == 0
    assert json.loads(rows.read_text())["geometry"] == ""


def test_the_servers_refusal_and_the_deadline(
    ctclip: Callable[..., Ran], misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    slow = save(tmp_path / "slow.nii", chest(), (2.0, 0.7, 0.8))
    ran = ctclip("predict", slow, "--timeout-s", 0.8, "--url", misbehaving.grpc_url)
    assert ran.code == 4
    assert "no answer from ctclip_pathologies within 0.8 s" in ran.err
    refused = save(tmp_path / "refused.nii", chest(), (11.0, 0.7, 0.8))
    ran = ctclip("predict", refused, "--url", misbehaving.grpc_url)
    assert ran.code == 2
    assert "SPACING: said so" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slope", "1"], "--slope and --intercept belong together"),
        (["--as-stored"], "--as-stored and --spacing belong together"),
        (["--spacing", "1,1,1"], "--as-stored and --spacing belong together"),
        (["--spacing", "1,1"], "expected three numbers z,x,y"),
        (["--embedding"], "--embedding has no place"),
        (["--csv", "absent/out.csv"], "absent/out.csv: cannot be written"),
        (["--jsonl", "."], "a folder, expected the name of a file"),
        (["--csv", "scan.nii"], "is one of the scans"),
        (["--prompts", "absent.json"], "absent.json: No such file"),
        (["--prompts", "scan.nii"], "scan.nii: not JSON"),
        (["--url", "http://localhost:8001"], "expected host:port"),
        (["--timeout-s", "-1"], "--timeout-s: got '-1', expected seconds"),
        (["--timeout-s", "soon"], "--timeout-s: got 'soon', expected seconds"),
    ],
)
def test_usage_errors(
    arguments: list[str],
    message: str,
    ctclip: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = save(Path("scan.nii"), chest())
    before = path.read_bytes()
    ran = ctclip("predict", path, *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [tmp_path / "scan.nii"]


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_scored_survives_an_interrupt(
    ending: signal.Signals, misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    good = save(tmp_path / "good.nii", chest(), (1.0, 0.7, 0.8))
    slow = save(tmp_path / "slow.nii", chest(), (2.0, 0.7, 0.8))
    table = tmp_path / "out.csv"
    arguments = ["predict", good, *copies(slow, 20), "--csv", table, "--json", "--readers", 1]
    with running(*arguments, "--url", misbehaving.grpc_url) as process:
        json.loads(process.stdout.readline())
        time.sleep(0.2)
        process.send_signal(ending)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    assert not table.exists()
    journal = tmp_path / "out.csv.journal.jsonl"
    assert f"what was done so far is in {journal}" in err
    assert str(good) in [json.loads(line)["path"] for line in journal.read_text().splitlines()]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("count", [1, 3])
def test_a_terminal_shows_that_something_happens(
    count: int, misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    slow = save(tmp_path / "slow.nii", chest(), (2.0, 0.7, 0.8))
    master, terminal = pty.openpty()
    arguments = ["predict", *copies(slow, count), "--url", misbehaving.grpc_url]
    command = [*CTCLIP, *map(str, arguments)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # what Linux says at the end of a terminal
            while chunk := os.read(master, 65536):
                shown += chunk
    os.close(master)
    text = shown.decode()
    assert process.returncode == 0, text
    assert "Scoring" in text
    assert text.count("Probability") == count
    up_and_erase = "\x1b[1A\x1b[2K"  # tables stand alone: the bar is taken away before each of them
    assert up_and_erase in text[text.index("Scoring") : text.index("Probability")]
    assert up_and_erase in text[text.rindex("Scoring") :]


def test_names_that_are_no_text(
    ctclip: Callable[..., Ran], misbehaving: EmbeddedTriton, tmp_path: Path
) -> None:
    path = save(tmp_path / "scan.nii", chest(), (1.0, 0.7, 0.8))
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.nii"))
    path.rename(odd)
    table = tmp_path / "out.csv"
    ran = ctclip("predict", odd, "--json", "--csv", table, "--url", misbehaving.grpc_url)
    assert ran.code == 0
    assert json.loads(ran.out)["path"] == str(odd)
    assert os.fsencode(odd) in table.read_bytes()
    assert ctclip("predict", odd, "--url", misbehaving.grpc_url).code == 0
    assert ctclip("predict", f"{odd}.gz", "--url", misbehaving.grpc_url).code == 2


def test_help_and_mistakes(ctclip: Callable[..., Ran]) -> None:
    ran = ctclip("--help")
    assert ran.code == 0
    assert "predict" in ran.out
    assert ctclip("--version").out.startswith("ctclip ")
    assert ctclip("predict", "--help").code == 0
    assert ctclip().code == 2
    assert ctclip("predict").code == 2
    ran = ctclip("predcit", "scan.nii")
    assert ran.code == 2
    assert "'predcit' is no command of ctclip" in ran.err
    assert "Did you mean 'predict'?" in ran.err


def test_commands_of_distributions_that_are_absent_or_broken(
    ctclip: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoint

    group = "ctclip.commands"
    points = [
        EntryPoint("predict", "ctclip_client.cli.predict", group),
        EntryPoint("broken", "no_such_distribution.command", group),
    ]
    monkeypatch.setattr("ctclip_client.cli.program.entry_points", lambda group: points)
    ran = ctclip("serve")
    assert ran.code == 2
    assert "checkout of this project: pip install ./client ./server" in ran.err
    ran = ctclip("--help")
    assert ran.code == 0
    assert "predict" in ran.out
    assert "'broken'" in ran.err
    assert ctclip("predict", "--help").err == ""
    ran = ctclip("broken")
    assert ran.code == 2
    assert "from where it came" in ran.err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ctclip_client.cli.program import main\n"
        "try: main(['predict', '--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"numpy", "grpc", "nibabel", "torch", "onnx", "rich"}
