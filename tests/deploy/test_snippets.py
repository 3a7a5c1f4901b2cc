"""Every block of code in the pages is run; what cannot be run here is parsed, and says why."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from ctclip_client.cli.program import main, parsed
from ctclip_client.release.linear_head import read_linear_head
from ctclip_client.thresholds import read_thresholds
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..programs import run
from .snippets import Snippet, blocks, commands, make_inputs, shown_files, words

RUN = {"predict", "embed", "series", "doctor", "evaluate", "fit-head"}
"""The others need minutes, weights or a server that is theirs to change; each has tests of its
own."""
DEFAULT_URL = "localhost:8001"


@pytest.fixture(scope="module")
def inputs(
    golden: Golden,
    repository: Path,
    server: EmbeddedTriton,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What the pages name, and what `predict` and `embed` make of it. Read-only."""
    folder = tmp_path_factory.mktemp("pages") / "inputs"
    make_inputs(folder, golden.geometry, repository)
    scans, url = folder / "valid", ("--url", server.grpc_url)
    scores = folder / "scores.csv"
    assert main(["predict", str(scans), "--csv", str(scores), *url]) == 0
    for name in ("valid.csv", "int8.csv", "fp32.csv"):
        shutil.copy(scores, folder / name)
    for split in ("train", "test"):
        (folder / f"{split}.csv").write_text(scores.read_text().replace("valid_", f"{split}_"))
    fit = ["--predictions", str(folder / "train.csv"), "--labels", str(folder / "train_labels.csv")]
    assert main(["evaluate", *fit, "--fit-thresholds", str(folder / "thresholds.json")]) == 0
    for kind, read in (("image", scans), ("text", folder / "reports.csv")):
        for suffix in ("npz", "parquet"):
            out = folder / f"{kind}s.{suffix}"
            assert main(["embed", kind, str(read), "--out", str(out), *url]) == 0
    return folder


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all of them, for one block or line."""
    for path in inputs.iterdir():
        if path.is_dir():
            (tmp_path / path.name).symlink_to(path)
        elif "journal" not in path.name:
            shutil.copy(path, tmp_path)  # an output of that name would go through a link
    monkeypatch.chdir(tmp_path)
    return tmp_path


def not_run(arguments: Sequence[str]) -> str:
    """Why a command is parsed only; "" where it is run."""
    if arguments[0] not in RUN:
        return "takes minutes, or needs what this machine lacks"
    if arguments[0] in {"predict", "embed"} and "--repository" in arguments:
        return "starts a server of its own, as other tests do"
    if any("example" in argument or argument.startswith("--tls") for argument in arguments):
        return "asks another machine"
    if any(argument.endswith(".pt") for argument in arguments):
        return "needs a checkpoint of the published geometry"
    return ""


@pytest.mark.parametrize("command", commands(), ids=str)
def test_commands(
    command: Snippet,
    server: EmbeddedTriton,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "…" in command.code:
        pytest.fail("A line for a shell has to be whole.")
    arguments = [server.grpc_url if word == DEFAULT_URL else word for word in words(command.code)]
    if not_run(arguments):
        assert parsed(arguments).run
        return
    monkeypatch.setenv("CTCLIP_URL", server.grpc_url)
    assert main(arguments) == 0, capsys.readouterr().err


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python(
    block: Snippet, server: EmbeddedTriton, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = block.code.replace(DEFAULT_URL, server.grpc_url)
    if "__main__" in code:  # other processes import it
        (here / "snippet.py").write_text(code)
        done = run([sys.executable, "snippet.py"], cwd=here)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
    else:
        exec(compile(code, str(block), "exec"), {})  # noqa: S102 (it is ours)
        assert capsys.readouterr().out


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_blocks_are_shell(block: Snippet) -> None:
    done = run(["bash", "-n"], input=block.code)
    assert (done.returncode, done.stderr) == (0, "")


def test_files_that_are_shown_are_read_or_named_by_a_command(tmp_path: Path) -> None:
    """Those for `predict`, `embed` and `evaluate` are what the commands of the pages read."""
    given = {word for each in commands() for word in words(each.code)}
    by_hand = {"own_thresholds.json": read_thresholds, "own_head.json": read_linear_head}
    for name, content in shown_files().items():
        (tmp_path / name).write_text(content)
        if name in by_hand:
            by_hand[name](tmp_path / name)
        else:
            assert name in given
