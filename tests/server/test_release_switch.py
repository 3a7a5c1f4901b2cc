"""`ctclip promote` and `rollback` on a real server that answers without pause."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tritonclient import grpc

from ctclip_client import Volume
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS, PYTHON_MODELS
from ctclip_client.system.progress import Stages
from ctclip_client.system.signals import termination_interrupts
from ctclip_client.transport.connection import Connection
from ctclip_export.checkpoint import TextModel, load_checkpoint
from ctclip_export.repository.build import export_repository
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server import EmbeddedTriton
from ctclip_server.releases.checks import check_release
from ctclip_server.releases.control import Control
from ctclip_server.releases.members import read_members
from ctclip_server.releases.staging import take_in
from ctclip_server.releases.switch import Switch

from ..conftest import Golden
from .releases import Load, Stubs, configs, copied, edit_record, known_answers, rename_release

Known = dict[tuple[str, str], bytes]


@pytest.fixture(scope="module")
def second(golden: Golden, text_model: TextModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint with other weights behind the image and another temperature."""
    folder = tmp_path_factory.mktemp("second")
    state = torch.load(golden.checkpoint, map_location="cpu", weights_only=True)
    weight = state["to_visual_latent.weight"]
    state["to_visual_latent.weight"] = weight * torch.linspace(0.5, 1.5, weight.shape[1])
    state["temperature"] = state["temperature"] + 0.7
    torch.save(state, folder / "other.pt")
    checkpoint = load_checkpoint(folder / "other.pt", text_model, golden.geometry)
    out = folder / "model_repository"
    export_repository(checkpoint, text_model, golden.geometry, PUBLISHED_FINDINGS, out)
    return out


@pytest.fixture(scope="module")
def volume(golden: Golden) -> Volume:
    scan = chest_phantom(golden.geometry)
    return Volume.from_array(scan.voxels, scan.spacing_mm, scan.rescale)


@pytest.fixture(scope="module")
def names(repository: Path, second: Path) -> tuple[str, str]:
    """The names of the two releases."""
    first_name, second_name = (
        json.loads((folder / "ctclip_check/1/provenance.json").read_text())["release"]["release"]
        for folder in (repository, second)
    )
    assert first_name != second_name
    return first_name, second_name


@pytest.fixture(scope="module")
def known(server: EmbeddedTriton, second: Path, volume: Volume) -> Known:
    """What each release answers, from a server that has nothing else."""
    with EmbeddedTriton(second) as other:
        answers = known_answers(server.grpc_url, volume) | known_answers(other.grpc_url, volume)
    assert len(answers) == 6
    assert len(set(answers.values())) == 6
    return answers


@pytest.fixture
def live(repository: Path, tmp_path: Path) -> Path:
    return copied(repository, tmp_path / "live")


@pytest.fixture
def triton(live: Path) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton(live, model_control="explicit") as server:
        yield server


def _switch(command: str, live: Path, triton: EmbeddedTriton, *more: object) -> int:
    return main([command, "--repository", str(live), "--url", triton.grpc_url, *map(str, more)])


def _loaded(triton: EmbeddedTriton) -> dict[str, set[str]]:
    """Model -> versions that are ready."""
    client = grpc.InferenceServerClient(triton.grpc_url)
    loaded: dict[str, set[str]] = {}
    for entry in client.get_model_repository_index().models:
        if entry.state == "READY":
            loaded.setdefault(entry.name, set()).add(entry.version)
    client.close()
    return loaded


class _Readiness(threading.Thread):
    """Asks, as a health check does, whether an ensemble is ready."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.answers: list[int] = []
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            connection = http.client.HTTPConnection(self.url, timeout=10)
            connection.request("GET", "/v2/models/ctclip_pathologies/ready")
            self.answers.append(connection.getresponse().status)
            connection.close()
            time.sleep(0.01)

    def __enter__(self) -> _Readiness:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_asked.set()
        self.join()


def test_no_request_fails_and_no_answer_mixes_releases(
    live: Path,
    triton: EmbeddedTriton,
    second: Path,
    volume: Volume,
    known: Known,
    names: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    old, new = names
    before = configs(live)
    assert triton.process_id is not None
    with (
        Load(triton.grpc_url, volume) as load,
        Stubs(triton.process_id) as stubs,
        _Readiness(triton.http_url) as readiness,
    ):
        load.more(50)
        assert set(load.releases()) == {old}
        assert _switch("promote", live, triton, "--from", second) == 0
        promoted = time.monotonic()
        load.more(50)
        assert set(load.releases(since=promoted)) == {new}
        assert set.union(*_loaded(triton).values()) == {"2"}
        assert _switch("rollback", live, triton) == 0
        rolled_back = time.monotonic()
        load.more(50)
        assert set(load.releases(since=rolled_back)) == {old}
        assert configs(live) == before
        assert _switch("promote", live, triton) == 0
        load.more(50)
    load.check(known)
    assert len(load.answers) >= 200
    assert set(readiness.answers) == {200}
    # Twice the memory, as the command says. (Python models write their byte code into the version
    # folder when they start, and Triton takes the new date for a new file.)
    python_models = {model.name for model in PYTHON_MODELS}
    assert {stubs.most[name] for name in set(stubs.most) - python_models} == {2}
    said = capsys.readouterr()
    assert f"serves version 2 (release {new})" in said.out
    assert f"serves version 1 (release {old})" in said.out
    assert "twice the memory" in said.err


def _stated(live: Path) -> set[str]:
    """All versions that any config names: in version policies and as pins."""
    found = re.findall(
        r"versions: \[([^\]]*)\]|model_version: (\d+)", "".join(configs(live).values())
    )
    return {listed or pin for listed, pin in found}


def test_a_release_that_does_not_load_changes_nothing(
    live: Path,
    triton: EmbeddedTriton,
    second: Path,
    tmp_path: Path,
    volume: Volume,
    known: Known,
    names: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = copied(second, tmp_path / "broken")
    graph = broken / "ctclip_relevance/1/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-100])
    digest = hashlib.sha256(graph.read_bytes()).hexdigest()
    edit_record(broken, "ctclip_relevance", file_sha256=digest)
    before = configs(live)
    with Load(triton.grpc_url, volume) as load:
        load.more(10)
        assert _switch("promote", live, triton, "--from", broken) == 4
        load.more(10)
    load.check(known)
    assert set(load.releases()) == {names[0]}
    assert configs(live) == before
    assert set.union(*_loaded(triton).values()) == {"1"}
    said = capsys.readouterr().err
    assert "ctclip_relevance" in said
    assert "it is truncated" in said
    assert "Nothing has changed: version 1 still serves." in said
    assert "Traceback" not in said


def test_a_command_that_was_killed_is_completed_by_the_next(
    live: Path,
    triton: EmbeddedTriton,
    second: Path,
    volume: Volume,
    known: Known,
    names: tuple[str, str],
) -> None:
    arguments = ["promote", "--repository", str(live), "--url", triton.grpc_url]
    command = [sys.executable, "-m", "ctclip_client", *arguments, "--from", str(second)]
    with (
        Load(triton.grpc_url, volume, threads=1) as load,
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as process,
    ):
        vision = live / "ctclip_vision/config.pbtxt"
        deadline = time.monotonic() + 60
        while "[1, 2]" not in vision.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert "[1, 2]" in vision.read_text()
        # Meanwhile a replica starts from the same folder.
        with EmbeddedTriton(live) as replica, Load(replica.grpc_url, volume) as other:
            other.more(3)
        assert set(other.releases()) == {names[0]}
        assert _switch("promote", live, triton) == 0
        completed = time.monotonic()
        load.more(5)
        assert set(load.releases(since=completed)) == {names[1]}
    load.check(known)
    other.check(known)


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_command_that_is_told_to_end_puts_everything_back(
    command: str,
    live: Path,
    triton: EmbeddedTriton,
    second: Path,
    volume: Volume,
    known: Known,
    names: tuple[str, str],
) -> None:
    """By the system, as `systemctl stop` and a cancelled job do."""
    serving, coming, name = "1", "2", names[0]
    arguments = ["--repository", str(live), "--url", triton.grpc_url]
    if command == "promote":
        take_in(read_members(live), read_members(second))
    else:
        assert _switch("promote", live, triton, "--from", second) == 0
        serving, coming, name = "2", "1", names[1]
    before = configs(live)
    with (
        Load(triton.grpc_url, volume, threads=1) as load,
        subprocess.Popen(
            [sys.executable, "-m", "ctclip_client", command, *arguments],
            stderr=subprocess.PIPE, text=True,
        ) as process,
    ):  # fmt: skip
        vision = live / "ctclip_vision/config.pbtxt"
        deadline = time.monotonic() + 60
        while "[1, 2]" not in vision.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert configs(live) == before
        load.more(3)
    load.check(known)
    assert set(load.releases()) == {name}
    assert f"Nothing has changed: version {serving} still serves." in said
    assert said.splitlines()[-1] == "interrupted"
    deadline = time.monotonic() + 60
    while set.union(*_loaded(triton).values()) != {serving} and time.monotonic() < deadline:
        time.sleep(0.1)
    assert coming not in set.union(*_loaded(triton).values())


def test_a_switch_that_ends_while_the_old_version_is_unloaded_says_so_on_disk(
    live: Path, triton: EmbeddedTriton, second: Path, volume: Volume, names: tuple[str, str]
) -> None:
    members = read_members(live)
    release = check_release(members, take_in(members, read_members(second)).version)

    @contextlib.contextmanager
    def stage(description: str) -> Iterator[None]:
        if description.startswith("Unload"):
            signal.raise_signal(signal.SIGTERM)
        yield

    with Control(Connection(triton.grpc_url, 60)) as control:
        switch = Switch(control, members, release, stage)
        with termination_interrupts(), pytest.raises(KeyboardInterrupt):
            switch.run({1}, 60)
    assert switch.changed_over
    assert _stated(live) == {"2"}
    with Load(triton.grpc_url, volume, threads=1) as load:
        load.more(2)
    assert set(load.releases()) == {names[1]}
    assert _switch("promote", live, triton) == 0
    assert set.union(*_loaded(triton).values()) == {"2"}


def _three(live: Path, triton: EmbeddedTriton, second: Path, third: Path) -> None:
    """Version 3 serves, of three."""
    rename_release(copied(second, third), "another")
    for coming in (second, third):
        assert _switch("promote", live, triton, "--from", coming) == 0


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
    live: Path,
    triton: EmbeddedTriton,
    second: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Another `rollback` would go on to a still older release."""
    _three(live, triton, second, tmp_path / "third")
    with monkeypatch.context() as patch:
        _signals_in(("Unload",), patch)
        assert _switch("rollback", live, triton) == 130
    assert main(_said_command(capsys.readouterr().err)) == 0
    assert set.union(*_loaded(triton).values()) == {"2"}
    assert _stated(live) == {"2"}


def test_a_second_signal_while_all_is_put_back_is_not_called_no_change(
    live: Path,
    triton: EmbeddedTriton,
    second: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    take_in(read_members(live), read_members(second))
    with monkeypatch.context() as patch:
        _signals_in(("Load ctclip_vision", "Put everything back"), patch)
        assert _switch("promote", live, triton) == 130
    said = capsys.readouterr().err
    assert "Nothing has changed" not in said
    assert "not everything is put back" in said
    assert main(_said_command(said)) == 0
    assert set.union(*_loaded(triton).values()) == {"2"}


def test_configs_agree_after_every_single_write(
    live: Path,
    triton: EmbeddedTriton,
    second: Path,
    volume: Volume,
    known: Known,
    names: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that a crash anywhere leaves a repository that starts, and never a mixed answer."""
    from ctclip_server.releases import switch
    from ctclip_server.releases.members import pins, read_members
    from ctclip_server.releases.versions import stated_versions
    from ctclip_server.repository import read_config

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
    assert _switch("promote", live, triton, "--from", second) == 0
    assert writes > 20
    assert _stated(live) == {"2"}
    triton.stop()
    with EmbeddedTriton(live) as again, Load(again.grpc_url, volume) as load:
        load.more(3)
    assert set(load.releases()) == {names[1]}
    load.check(known)


def test_a_variant_is_switched_as_the_default_is(
    live: Path, second: Path, volume: Volume, names: tuple[str, str]
) -> None:
    """The server runs with configs/openvino.pbtxt; all other configs follow it."""
    with EmbeddedTriton(live, config_name="openvino", model_control="explicit") as triton:
        assert triton.process_id is not None
        with Stubs(triton.process_id) as stubs, Load(triton.grpc_url, volume, threads=1) as load:
            assert _switch("promote", live, triton, "--from", second) == 0
            promoted = time.monotonic()
            load.more(3)
        assert load.failures == []
        assert set(load.releases(since=promoted)) == {names[1]}
        assert stubs.most["ctclip_vision"] == 2
        assert set.union(*_loaded(triton).values()) == {"2"}
    assert _stated(live) == {"2"}


def test_promoting_what_serves_says_so(
    live: Path, triton: EmbeddedTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    before = configs(live)
    assert _switch("promote", live, triton) == 0
    assert "serves version 1" in (said := capsys.readouterr()).out
    assert "as before" in said.out
    assert configs(live) == before


def test_there_is_nothing_before_the_first_release(
    live: Path, triton: EmbeddedTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _switch("rollback", live, triton) == 2
    assert "there is none before it" in capsys.readouterr().err


def test_a_server_without_model_control_is_left_alone(
    live: Path,
    server: EmbeddedTriton,
    second: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = configs(live)
    assert _switch("promote", live, server, "--from", second) == 4
    assert "ctclip serve --model-control explicit" in capsys.readouterr().err
    assert configs(live) == before


def test_nobody_at_the_address_is_said(live: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", "--repository", str(live), "--url", "127.0.0.1:9"]) == 4
    assert "no Triton answers there" in capsys.readouterr().err


def test_serve_can_allow_model_control(
    serve: Callable[..., subprocess.Popen[str]], live: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = serve("--repository", live, "--model-control", "explicit")
    assert process.stdout is not None
    url = process.stdout.readline().split()[1].removeprefix("grpc=")
    assert main(["promote", "--repository", str(live), "--url", url]) == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
