"""Without ctclip-export a CT, a server and most of a repository can still be examined."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import ctclip_client

_ABSENT = ("ctclip_export", "ctclip_server", "ctclip_bench", "_editable_impl", "torch", "onnx")


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """A folder of packages as `pip install ./client` leaves it: links to those of this environment,
    without the other distributions and what only they need."""
    folder = tmp_path_factory.mktemp("light")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(_ABSENT) and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    client = folder / "ctclip_client"
    if not client.exists():  # an editable install
        client.symlink_to(Path(ctclip_client.__file__).parent)

    def run(*arguments):
        code = (
            "import sys\n"
            f"sys.path.insert(0, {str(folder)!r})\n"
            "from ctclip_client.cli.program import main\n"
            "code = main(['doctor', *sys.argv[1:]])\n"
            "assert not {'torch', 'onnx', 'onnxruntime'} & sys.modules.keys()\n"
            "sys.exit(code)\n"
        )
        return subprocess.run(
            [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


def test_a_repository_is_examined_but_for_its_graphs(light, repository):
    done = light(repository, "--json")
    assert done.returncode == 0, done.stderr
    checks = {c["name"]: c for c in json.loads(done.stdout)["checks"]}
    assert checks["graph"]["verdict"] == "NOT RUN"
    assert checks["graph"]["remedy"].endswith("pip install ./client ./export")
    assert checks["file"]["verdict"] == "PASS"
    assert "record" not in checks


def test_a_checkpoint_names_the_distribution_that_it_needs(light, golden):
    done = light(golden.checkpoint)
    assert done.returncode == 2
    assert "needs ctclip-export" in done.stderr
    assert "pip install ./client ./export" in done.stderr
    assert "pip install ctclip" not in done.stderr


def test_a_server_is_examined(light, server):
    done = light(server.grpc_url, "--json")
    assert (done.returncode, json.loads(done.stdout)["verdict"]) == (0, "PASS"), done.stderr
