"""Every command reaches a server as deploy/compose.tls.yml starts it: it asks for the client's
certificate, and for a word where somebody wants to administer it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctclip_bench.load import statistics
from ctclip_bench.load.session import describe_server
from ctclip_client.cli.connection import read_connection
from ctclip_client.cli.program import main, parsed
from ctclip_server.embedded.server import EmbeddedTriton

from ..certificates import Certificates

WORD = "0123456789abcdef"
COMMANDS = ("predict", "doctor", "promote", "rollback", "parity", "bench")


@pytest.fixture(scope="module")
def live(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(repository, tmp_path_factory.mktemp("live") / "repository"))


@pytest.fixture(scope="module")
def triton(live: Path, certificates: Certificates) -> Iterator[EmbeddedTriton]:
    folder = certificates.folder
    options = [
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={folder / 'server.crt'}",
        f"--grpc-server-key={folder / 'server.key'}",
        f"--grpc-root-cert={folder / 'ca.crt'}",
        f"--grpc-restricted-protocol=model-repository,model-config,statistics:word={WORD}",
    ]
    with EmbeddedTriton(live, model_control="explicit", extra_arguments=options) as server:
        yield server


@pytest.fixture
def flags(certificates: Certificates, tmp_path: Path) -> list[str]:
    """What an administrator gives on the command line."""
    headers = tmp_path / "headers"
    headers.write_text(f"triton-grpc-protocol-word: {WORD}\n")
    folder = certificates.folder
    return [
        "--tls-ca", str(folder / "ca.crt"), "--headers-file", str(headers),
        "--tls-cert", str(folder / "client.crt"), "--tls-key", str(folder / "client.key"),
    ]  # fmt: skip


@pytest.fixture
def variables(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same in the environment."""
    for flag, value in zip(flags[::2], flags[1::2], strict=True):
        monkeypatch.setenv(f"CTCLIP_{flag[2:].replace('-', '_').upper()}", value)


def arguments(command: str, live: Path, phantoms: Path, tmp_path: Path) -> list[str]:
    """A command and what it needs besides a server."""
    return {
        "predict": ["predict", str(phantoms / "ct0.nii.gz"), "--json"],
        "doctor": ["doctor", "--repository", str(live), "--json"],
        "bench": ["bench", "--repository", str(live), "--out", str(tmp_path / "out"),
                  "--scans", str(phantoms)],
        "parity": ["parity", "--repository", str(live), "--scans", str(phantoms)],
    }.get(command, [command, "--repository", str(live)])  # fmt: skip


@pytest.mark.parametrize("command", ["predict", "doctor", "promote"])
@pytest.mark.parametrize("way", ["flags", "variables"])
def test_a_command_with_a_certificate_is_let_in(
    command: str,
    way: str,
    triton: EmbeddedTriton,
    live: Path,
    phantoms: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    options = request.getfixturevalue(way) or []
    call = arguments(command, live, phantoms, tmp_path)
    assert main([*call, "--url", triton.grpc_url, *options]) == 0


@pytest.mark.usefixtures("variables")
def test_parity_compares_what_a_guarded_server_answers(
    triton: EmbeddedTriton, live: Path, phantoms: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(phantoms / "ct0.nii.gz", scans)
    call = ["parity", "--repository", str(live), "--scans", str(scans), "--json"]
    assert main([*call, "--url", triton.grpc_url]) == 0, capsys.readouterr()


def test_bench_asks_a_guarded_server_about_itself(
    triton: EmbeddedTriton, live: Path, flags: list[str]
) -> None:
    args = parsed(["bench", "--repository", str(live), "--url", triton.grpc_url, *flags])
    connection = read_connection(args, args.url)
    assert describe_server(connection, live, None)["models"]
    assert statistics.read(connection)


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_certificate_every_command_says_that_it_needs_one(
    command: str,
    triton: EmbeddedTriton,
    live: Path,
    phantoms: Path,
    tmp_path: Path,
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = arguments(command, live, phantoms, tmp_path)
    assert main([*call, "--url", triton.grpc_url, *flags[:4]]) == 4
    said = capsys.readouterr()
    assert f"{triton.grpc_url}: no Triton answers there" in said.err
    assert "--tls-cert and --tls-key" in said.err
    assert "Traceback" not in said.err
    assert WORD not in said.err + said.out


def test_without_the_word_a_promotion_is_refused(
    triton: EmbeddedTriton, live: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["promote", "--repository", str(live), "--url", triton.grpc_url]
    assert main([*call, *flags[:2], *flags[4:]]) == 4
    assert "This protocol is restricted" in capsys.readouterr().err
