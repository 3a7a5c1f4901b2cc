"""The client where Linux's own names are absent: it reads, sends and writes on Windows, too."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest

from ctclip_client import Client, InvalidInput, read_volume
from ctclip_client.transport import base
from ctclip_server.embedded.server import EmbeddedTriton

from ..programs import run

AS_ON_WINDOWS = """
import importlib, os, pkgutil, signal, sys
import ctclip_client
def everything():
    for found in pkgutil.walk_packages(ctclip_client.__path__, "ctclip_client."):
        if found.name != "ctclip_client.__main__":
            importlib.import_module(found.name)
    return [name for name in sys.modules if name.split(".")[0] == "ctclip_client"]
for name in everything():  # what they import of others was made for this system, and stays
    del sys.modules[name]
for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for module, names in (
    (os, "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK fork geteuid getpgid getuid killpg mkfifo "
         "posix_fallocate register_at_fork sched_getaffinity setsid statvfs uname wait4"),
    (signal, "SIGHUP SIGKILL SIGALRM SIGUSR1 pthread_sigmask setitimer"),
):
    for name in names.split():
        delattr(module, name)
sys.platform = "win32"
import ctclip_client
everything()
from ctclip_client.cli.program import main
scan, url, folder = sys.argv[1:]
to_server = ["predict", scan, "--url", url]
assert main([*to_server, "--explain", folder]) == 0
sys.exit(main([*to_server, "--json", "--csv", folder + "/findings.csv"]))
"""


def test_it_reads_sends_and_writes_without_posix(
    server: EmbeddedTriton, phantoms: Path, tmp_path: Path
) -> None:
    scan = phantoms / "ct0.nii.gz"
    done = run(
        [sys.executable, "-W", "error", "-c", AS_ON_WINDOWS, scan, server.grpc_url, tmp_path],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"}, encoding="cp1252",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout.splitlines()[-1])
    assert got["transport"]["kind"] == "grpc"
    with Client(server.grpc_url) as client:
        expected = client.pathologies(read_volume(scan))
    names, probabilities = zip(
        *((row["finding"], row["probability"]) for row in got["findings"]), strict=True
    )
    assert names == expected.findings
    assert probabilities == pytest.approx(expected.probabilities, rel=0, abs=2e-5)
    with (tmp_path / "findings.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 18
    assert len(list(tmp_path.rglob("*.nii.gz"))) >= 18


def test_shared_memory_is_for_linux_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "SUPPORTED", False)
    with pytest.raises(InvalidInput, match="which only Linux has"):
        Client(shared_memory=True)
