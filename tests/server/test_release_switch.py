"""`ctclip promote` and `rollback` on a real server that answers without pause.

One server of the smallest release serves all tests here; each puts everything back.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ctclip_client import ServerError
from ctclip_client.cli.program import main
from ctclip_client.release.digest import sha256
from ctclip_client.release.members import read_members
from ctclip_client.release.repository import pins, read_config
from ctclip_client.system.progress import Stages
from ctclip_client.transport.connection import Connection
from ctclip_server import EmbeddedTriton
from ctclip_server.releases import switch
from ctclip_server.releases.control import Control
from ctclip_server.releases.place import place_release
from ctclip_server.releases.running import running_configs
from ctclip_server.releases.versions import stated_versions

from ..tiny_release import ENSEMBLE, GRAPH, X, write_release
from .releases import Load, Stubs, configs, edit_record, loaded, tiny

NAMES = ("old", "new", "newest")
KNOWN = {(ENSEMBLE, name): (X + number).tobytes() for number, name in enumerate(NAMES, start=1)}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    repository = write_release(tmp_path_factory.mktemp("live") / "live", NAMES[0], 1)
    with EmbeddedTriton(repository, model_control="explicit") as server:
        yield server


@pytest.fixture
def triton(shared: EmbeddedTriton) -> Iterator[EmbeddedTriton]:
    """The server, with version 1 only; so it is again afterwards."""
    repository = shared.repository
    before = configs(repository)
    assert stated(repository) == {"1"}
    yield shared
    for path, text in before.items():
        (repository / path).write_text(text)
    members = read_members(repository)
    with Control(Connection(shared.grpc_url, 60)) as control:
        for name in members.all:
            control.load(name)
        assert control.wait_until_unloaded(members.all, 1, 60) == {}
    for folder in repository.glob("*/[2-9]"):
        shutil.rmtree(folder)


@pytest.fixture
def live(triton: EmbeddedTriton) -> Path:
    return triton.repository


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return write_release(tmp_path / "second", NAMES[1], 2)


def _switch(command: str, triton: EmbeddedTriton, *more: object) -> int:
    repository = str(triton.repository)
    return main([command, "--repository", repository, "--url", triton.grpc_url, *map(str, more)])


def add_gpu_graph(repository: Path) -> Path:
    """A second form of the graph, and two configs of the same text that choose it."""
    folder = repository / GRAPH
    gpu_graph = shutil.copy(folder / "1/model.onnx", folder / "1/model_gpu.onnx")
    edit_record(repository, GRAPH, further_files={"model_gpu.onnx": sha256(gpu_graph)})
    text = (folder / "config.pbtxt").read_text() + 'default_model_filename: "model_gpu.onnx"\n'
    for name in ("gpu", "tensorrt"):
        (folder / "configs" / f"{name}.pbtxt").write_text(text)
    return repository


def load_of(triton: EmbeddedTriton) -> Load:
    return Load(partial(tiny, triton.grpc_url), [ENSEMBLE])


def serving(triton: EmbeddedTriton) -> set[str]:
    """All versions that are loaded."""
    return set.union(*loaded(triton).values())


def stated(live: Path) -> set[str]:
    """All versions that any config names: in version policies and as pins."""
    found = re.findall(
        r"versions: \[([^\]]*)\]|model_version: (\d+)", "".join(configs(live).values())
    )
    return {listed or pin for listed, pin in found}


def wait_until_both_serve(live: Path) -> None:
    """By the configs: a switch is on its way."""
    config = live / "ctclip_check/config.pbtxt"
    deadline = time.monotonic() + 60
    while "[1, 2]" not in config.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_release_that_does_not_load_changes_nothing(
    triton: EmbeddedTriton, second: Path, live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = second / GRAPH / "1/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    edit_record(second, GRAPH, file_sha256=sha256(graph))
    before = configs(live)
    with load_of(triton) as load:
        load.more(10)
        assert _switch("promote", triton, "--from", second) == 4
        load.more(10)
    load.check(KNOWN)
    assert set(load.releases()) == {"old"}
    assert configs(live) == before
    assert serving(triton) == {"1"}
    said = capsys.readouterr().err
    assert GRAPH in said
    assert "Nothing has changed: version 1 still serves." in said
    assert "Traceback" not in said


def test_a_command_that_was_killed_is_completed_by_the_next(
    triton: EmbeddedTriton, second: Path, live: Path
) -> None:
    arguments = ["promote", "--repository", str(live), "--url", triton.grpc_url]
    command = [sys.executable, "-m", "ctclip_client", *arguments, "--from", str(second)]
    with (
        load_of(triton) as load,
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,
    ):
        wait_until_both_serve(live)
        process.send_signal(signal.SIGKILL)
        process.wait()
        # Meanwhile a replica starts from the same folder.
        with EmbeddedTriton(live) as replica, load_of(replica) as other:
            other.more(3)
        assert set(other.releases()) == {"old"}
        assert _switch("promote", triton) == 0
        completed = time.monotonic()
        load.more(5)
        assert set(load.releases(since=completed)) == {"new"}
    load.check(KNOWN)
    other.check(KNOWN)


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_command_that_is_told_to_end_puts_everything_back(
    command: str, triton: EmbeddedTriton, second: Path, live: Path
) -> None:
    """By the system, as `systemctl stop` and a cancelled job do."""
    serves, coming, name = "1", "2", "old"
    arguments = ["--repository", str(live), "--url", triton.grpc_url]
    if command == "promote":
        place_release(read_members(live), read_members(second))
    else:
        assert _switch("promote", triton, "--from", second) == 0
        serves, coming, name = "2", "1", "new"
    before = configs(live)
    with (
        load_of(triton) as load,
        subprocess.Popen(
            [sys.executable, "-m", "ctclip_client", command, *arguments],
            stderr=subprocess.PIPE, text=True,
        ) as process,
    ):  # fmt: skip
        wait_until_both_serve(live)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert configs(live) == before
        load.more(3)
    load.check(KNOWN)
    assert set(load.releases()) == {name}
    assert f"Nothing has changed: version {serves} still serves." in said
    assert said.splitlines()[-1] == "interrupted"
    deadline = time.monotonic() + 60
    while serving(triton) != {serves} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert coming not in serving(triton)


def _signals_in(stages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells the command to end when these stages begin."""
    stage = Stages.stage

    def told(self: Stages, description: str, steps: int | None = None) -> object:
        if description.startswith(stages):
            signal.raise_signal(signal.SIGTERM)
        return stage(self, description, steps)

    monkeypatch.setattr(Stages, "stage", told)


def _said_command(said: str) -> list[str]:
    (command,) = re.findall(r"ctclip promote .*--to \d+", said)
    return shlex.split(command)[1:]


def test_a_rollback_that_was_interrupted_says_what_completes_it(
    triton: EmbeddedTriton,
    second: Path,
    live: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another `rollback` would go on to a still older release."""
    for coming in (second, write_release(tmp_path / "third", NAMES[2], 3)):
        assert _switch("promote", triton, "--from", coming) == 0
    with monkeypatch.context() as patch:
        _signals_in(("Unload",), patch)
        assert _switch("rollback", triton) == 130
    assert stated(live) == {"2"}  # whatever starts now serves it alone
    with load_of(triton) as load:
        load.more(2)
    assert set(load.releases()) == {"new"}
    assert main(_said_command(capsys.readouterr().err)) == 0
    assert serving(triton) == {"2"}
    assert stated(live) == {"2"}


def test_a_second_signal_while_all_is_put_back_is_not_called_no_change(
    triton: EmbeddedTriton,
    second: Path,
    live: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place_release(read_members(live), read_members(second))
    with monkeypatch.context() as patch:
        _signals_in(("Load ctclip_check", "Put everything back"), patch)
        assert _switch("promote", triton) == 130
    said = capsys.readouterr().err
    assert "Nothing has changed" not in said
    assert "Not everything is put back" in said
    assert main(_said_command(said)) == 0
    assert serving(triton) == {"2"}


def test_what_cannot_be_put_back_does_not_hide_why_it_had_to_be(
    triton: EmbeddedTriton,
    second: Path,
    live: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(what: str) -> Callable[..., None]:
        def refuse(*_: object) -> None:
            raise ServerError(f"no {what} for you.", "Ask it.")

        return refuse

    place_release(read_members(live), read_members(second))
    for interrupted in (False, True):
        with monkeypatch.context() as patch:
            stage = Stages.stage

            def begun(self: Stages, title: str, steps: int | None = None) -> object:
                if title == "Put everything back":
                    patch.setattr(Control, "load", refused("loading"))
                return stage(self, title, steps)  # noqa: B023

            patch.setattr(Stages, "stage", begun)
            if interrupted:
                _signals_in(("Change the ensembles",), patch)
            else:
                patch.setattr(Control, "provenance", refused("provenance"))  # asked before that
            assert _switch("promote", triton) == (130 if interrupted else 4)
        said = capsys.readouterr().err
        assert "Not everything could be put back: " in said
        assert "no loading for you." in said
        assert ("interrupted" if interrupted else "error: no provenance for you.") in said
        assert _said_command(said)


@pytest.mark.slow
def test_configs_agree_after_every_single_write(
    triton: EmbeddedTriton, second: Path, live: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a crash anywhere leaves a repository that starts, and never a mixed answer."""
    replace, writes = switch.replace, 0

    def checked(path: Path, text: str) -> None:
        nonlocal writes
        replace(path, text)
        writes += 1
        members = read_members(live)
        for name in members.ensembles:
            config = read_config(members.config(name))
            (pinned,) = pins(config)
            for step in config.ensemble_scheduling.step:
                served = stated_versions(read_config(members.config(step.model_name)))
                assert pinned in (served or ())

    monkeypatch.setattr(switch, "replace", checked)
    assert _switch("promote", triton, "--from", second) == 0
    assert writes > 5
    assert stated(live) == {"2"}
    with EmbeddedTriton(live) as again, load_of(again) as load:
        load.more(3)
    assert set(load.releases()) == {"new"}
    load.check(KNOWN)


@pytest.mark.slow
def test_a_variant_is_switched_as_the_default_is(tmp_path: Path, second: Path) -> None:
    """The server runs with configs/tensorrt.pbtxt, of the same text as gpu.pbtxt: nothing tells
    which of the two it was; all other configs follow."""
    own = add_gpu_graph(write_release(tmp_path / "own", NAMES[0], 1))
    add_gpu_graph(second)
    with EmbeddedTriton(own, config_name="tensorrt", model_control="explicit") as triton:
        assert triton.process_id is not None
        with Stubs(triton.process_id) as stubs, load_of(triton) as load:
            assert _switch("promote", triton, "--from", second) == 0
            promoted = time.monotonic()
            load.more(3)
        load.check(KNOWN)
        assert set(load.releases(since=promoted)) == {"new"}
        assert stubs.most[GRAPH] == 2  # twice the memory, and not more
        assert serving(triton) == {"2"}
    assert stated(own) == {"2"}


def test_a_variant_that_does_not_load_is_put_back_with_its_twin(
    triton: EmbeddedTriton, second: Path, live: Path
) -> None:
    """Here the default config has the twin."""
    twin = live / GRAPH / "configs/twin.pbtxt"
    twin.write_text((live / GRAPH / "config.pbtxt").read_text())
    graph = second / GRAPH / "1/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    edit_record(second, GRAPH, file_sha256=sha256(graph))
    before = configs(live)
    try:
        assert _switch("promote", triton, "--from", second) == 4
        assert configs(live) == before
    finally:
        twin.unlink()
    assert serving(triton) == {"1"}


@pytest.mark.parametrize("model", ["ctclip_vision", "ctclip_preprocess", GRAPH])
def test_the_configs_that_a_server_may_run_with_are_told_by_what_they_say(
    model: str, repository: Path, live: Path
) -> None:
    files = read_members(live if model == GRAPH else repository).config_files(model)
    for path in files:
        running = read_config(path)
        # As Triton tells it; `test_gpu_config` asks a real one.
        running.default_model_filename = running.default_model_filename or {
            "tensorrt": "model.plan"
        }.get(running.backend, "model.onnx")
        alike = [other for other in files if other.read_text() == path.read_text()]
        assert running_configs(files, running) == tuple(alike)


def test_promoting_what_serves_says_so(
    live: Path, triton: EmbeddedTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    before = configs(live)
    assert _switch("promote", triton) == 0
    assert "serves version 1" in (said := capsys.readouterr()).out
    assert "as before" in said.out
    assert "WARNING: this release carries no self-check" in said.err
    assert configs(live) == before


def test_there_is_nothing_before_the_first_release(
    live: Path, triton: EmbeddedTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _switch("rollback", triton) == 2
    assert "there is none before it" in capsys.readouterr().err


def test_nobody_at_the_address_is_said(second: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", "--repository", str(second), "--url", "127.0.0.1:9"]) == 4
    assert "no Triton answers there" in capsys.readouterr().err


@pytest.mark.slow
def test_serve_can_allow_model_control(
    serve: Callable[..., subprocess.Popen[str]], second: Path
) -> None:
    process = serve("--repository", second, "--model-control", "explicit")
    assert process.stdout is not None
    url = process.stdout.readline().split()[1].removeprefix("grpc=")
    assert main(["promote", "--repository", str(second), "--url", url]) == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
