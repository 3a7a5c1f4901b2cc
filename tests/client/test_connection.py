"""Connection options: one set for every command, from the command line, files and environment."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import pytest

from ctclip_client import Tls
from ctclip_client.cli.connection import (
    connection_flags,
    read_connection,
    read_optional_connection,
    url_of_environment,
)
from ctclip_client.cli.program import main, parsed
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.transport.connection import Connection

from ..certificates import Certificates

COMMANDS: dict[str, list[str]] = {
    "predict": ["scan.nii"],
    "doctor": [],
    "promote": ["--repository", "r"],
    "rollback": ["--repository", "r"],
    "parity": ["--repository", "r"],
    "bench": ["--repository", "r"],
}
URL = "ct.example:8001"
SECRET = "open sesame"  # noqa: S105
KEY = "triton-grpc-protocol-word"


def parse(command: str, *arguments: object) -> argparse.Namespace:
    return parsed([command, *COMMANDS[command], *map(str, arguments)])


def connect(command: str, *arguments: object) -> Connection:
    return read_connection(parse(command, "--url", URL, *arguments), URL)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "HEADERS_FILE", "TLS_CA", "TLS_CERT", "TLS_KEY"):
        monkeypatch.delenv(f"CTCLIP_{name}", raising=False)


@pytest.fixture
def headers_file(tmp_path: Path) -> Path:
    path = tmp_path / "headers"
    path.write_text(f"{KEY}: {SECRET}\n\nX-Caller: a: b\n")
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_same(
    command: str,
    certificates: Certificates,
    headers_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ca, crt, key = (certificates.folder / name for name in ("ca.crt", "client.crt", "client.key"))
    expected = Connection(
        URL, 7.5, Tls(root_certificates=ca, private_key=key, certificate_chain=crt),
        {KEY: SECRET, "x-caller": "a: b"},
    )  # fmt: skip
    files = ("--tls-ca", ca, "--tls-cert", crt, "--tls-key", key, "--headers-file", headers_file)
    patience = ("--timeout-s", 7.5)
    assert connect(command, *files, *patience) == expected
    old = ("--root-certificates", ca, "--headers", headers_file)  # as they were spelled before
    assert connect(command, *old, *files[2:6], *patience) == expected
    both = (*files, *patience, "--header", "X-Caller=c=d")
    assert connect(command, *both).headers == {KEY: SECRET, "x-caller": "c=d"}
    for name, path in zip(("CA", "CERT", "KEY"), (ca, crt, key), strict=True):
        monkeypatch.setenv(f"CTCLIP_TLS_{name}", str(path))
    monkeypatch.setenv("CTCLIP_HEADERS_FILE", str(headers_file))
    assert connect(command, *patience) == expected
    assert connect(command, "--tls-ca", crt).tls == Tls(crt, key, crt)
    assert pickle.loads(pickle.dumps(expected)) == expected  # noqa: S301 (made one line above)
    assert SECRET not in repr(expected)


@pytest.mark.parametrize("command", COMMANDS)
def test_without_options_there_is_no_tls_and_no_header(command: str) -> None:
    found = connect(command, "--timeout-s", 60)
    assert (found.tls, found.headers) == (None, {})
    assert connect(command, "--timeout-s", 60, "--tls").tls == Tls()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_new_spellings_only(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, *(["serve"] * (command == "bench")), "--help"])
    shown = capsys.readouterr().out
    for flag in ("--url", "--timeout-s", "--tls ", "--tls-ca", "--tls-cert", "--tls-key",
                 "--header ", "--headers-file"):  # fmt: skip
        assert flag in shown
    assert "--root-certificates" not in shown
    assert "--headers " not in shown


class TestTheUrlOfTheEnvironment:
    @pytest.fixture(autouse=True)
    def url(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CTCLIP_URL", "nowhere")

    @pytest.mark.parametrize("command", ["predict", "doctor"])
    def test_counts_for_commands_that_only_ask(
        self, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = {"predict": [str(tmp_path / "scan.nii")], "doctor": []}[command]
        assert main([command, *arguments]) == 2
        assert "CTCLIP_URL: got 'nowhere', expected host:port." in capsys.readouterr().err
        assert main([command, *arguments, "--url", "elsewhere"]) == 2
        assert "--url: got 'elsewhere'" in capsys.readouterr().err

    def test_is_absent_where_it_is_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CTCLIP_URL", "")
        assert url_of_environment() is None

    @pytest.mark.parametrize("command", ["parity", "bench"])
    def test_leads_no_measurement_anywhere(self, command: str) -> None:
        args = parse(command)
        assert args.url is None
        assert read_optional_connection(args) is None

    @pytest.mark.parametrize("command", ["promote", "rollback"])
    def test_leads_no_promotion_anywhere(
        self, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            main([command, "--repository", "r"])
        assert stopped.value.code == 2
        assert "required: --url" in capsys.readouterr().err


def test_a_path_wins_over_the_url_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CTCLIP_URL", "nowhere")
    assert main(["doctor", "no such path"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert main(["doctor", "no such path", "--url", URL]) == 2
    assert "expected one of them" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["parity", "bench"])
def test_options_without_a_server_to_use_them_on_are_refused(command: str) -> None:
    with pytest.raises(InvalidInput, match="--header is for a server that runs already"):
        read_optional_connection(parse(command, "--header", "a=b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--tls-cert client.crt", "--tls-cert: got client.crt, and no --tls-key."),
        ("--tls-key client.key", "--tls-key: got client.key, and no --tls-cert."),
        ("--tls-ca no.pem", "--tls-ca: no.pem: No such file or directory."),
        ("--tls-ca .", "--tls-ca: .: Is a directory."),
        ("--tls-ca client.key", "--tls-ca: client.key: got something else than a certificate."),
        ("--tls-cert no.pem --tls-key client.key", "--tls-cert: no.pem: No such file"),
        ("--tls-cert client.crt --tls-key no.pem", "--tls-key: no.pem: No such file"),
        ("--tls-cert client.crt --tls-key server.key", "are no certificate and its private key."),
        ("--tls-cert client.key --tls-key client.crt", "are no certificate and its private key."),
        ("--headers-file no.txt", "--headers-file: no.txt: No such file"),
        ("--headers-file names", "--headers-file: line 1 of names is no 'key: value'"),
    ],
)
def test_wrong_files_are_told_by_the_option(
    options: str, message: str, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(certificates.folder)
    with pytest.raises(InvalidInput) as refused:
        connect("predict", *options.split())
    assert message in refused.value.cause
    assert refused.value.remedy


def test_wrong_files_are_told_by_the_variable(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(certificates.folder)
    monkeypatch.setenv("CTCLIP_TLS_CERT", "client.crt")
    with pytest.raises(InvalidInput, match=r"CTCLIP_TLS_CERT: got client\.crt, and no --tls-key"):
        connect("promote")
    monkeypatch.setenv("CTCLIP_TLS_KEY", "no.pem")
    with pytest.raises(Unreadable, match=r"CTCLIP_TLS_KEY: no\.pem: No such file"):
        connect("promote")


@pytest.mark.parametrize(
    "text",
    [SECRET, f"two words: {SECRET}", f": {SECRET}", f"key: {SECRET}\x01", f"x-bin: {SECRET}"],
)
def test_a_header_is_never_shown(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "headers"
    file.write_text(f"a: b\n{text}\n")
    with pytest.raises(InvalidInput, match=r"line 2 of .* is no 'key: value'") as refused:
        connect("predict", "--headers-file", file)
    assert SECRET not in str(refused.value)
    with pytest.raises(SystemExit):
        main(["predict", "scan.nii", "--header", text.replace(": ", "=")])
    said = capsys.readouterr().err
    assert "argument --header: expected KEY=VALUE" in said
    assert SECRET not in said


def test_a_command_to_repeat_names_every_option(
    certificates: Certificates, headers_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTCLIP_TLS_CA", str(certificates.folder / "ca.crt"))
    client = [certificates.folder / f"client.{kind}" for kind in ("crt", "key")]
    given = ("--tls-cert", client[0], "--tls-key", client[1], "--headers-file", headers_file)
    args = parse("promote", "--url", URL, "--tls", *given, "--header", f"other={SECRET}")
    flags = connection_flags(args)
    assert SECRET not in flags
    assert flags == (
        f"--url {URL} --timeout-s 600 --tls --headers-file {headers_file} "
        f"--tls-ca {certificates.folder / 'ca.crt'} --tls-cert {client[0]} --tls-key {client[1]} "
        "--header 'other=…'"
    )
