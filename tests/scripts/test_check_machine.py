"""scripts/check-machine.sh, which the Makefile runs before it installs anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ..programs import Done, run

SCRIPT = Path(__file__).parents[2] / "scripts" / "check-machine.sh"
TOOLS = ("sh", "bash", "uname", "getconf", "cut", "printf", "sort", "head")


def check(python: str, *kind: str, **environment: str) -> Done:
    return run(["/bin/sh", SCRIPT, python, *kind], env=os.environ | environment)


@pytest.fixture
def machine(tmp_path: Path):
    """Make a folder to be the PATH: the usual tools, and others as shell scripts."""

    def machine(**scripts: str) -> str:
        for name in TOOLS:
            found = next(f for d in ("/usr/bin", "/bin") if (f := Path(d, name)).exists())
            (tmp_path / name).symlink_to(found)
        for name, script in scripts.items():
            path = tmp_path / name.replace("_", "-")
            path.unlink(missing_ok=True)
            if script:
                path.write_text(f"#!/bin/sh\n{script}\n")
                path.chmod(0o755)
        return str(tmp_path)

    return machine


def test_this_machine_has_everything():
    assert check(sys.executable).returncode == 0


@pytest.mark.parametrize("python", ["", "/nowhere/python3.11", "/bin/false"])
@pytest.mark.parametrize(
    ("packages", "line"),
    [("exit 0", "apt-get install python3.12 "), ("[ $2 = python3.11-venv ]", "install python3.11 "),
     ("exit 100", "uv python install 3.12")],
)  # fmt: skip
def test_a_python_is_named_that_this_system_can_install(python, packages, line, machine):
    done = check(python, PATH=machine(apt_cache=packages))
    assert done.returncode == 1
    cause, remedy = done.stderr.splitlines()
    assert "missing: Python 3.11 or 3.12" in cause
    assert line in remedy


@pytest.mark.parametrize(
    ("scripts", "said"),
    [
        ({"getconf": "echo glibc 2.31"}, "glibc 2.35 or newer (this machine has 2.31)"),
        ({"getconf": "exit 1"}, "glibc 2.35 or newer (this machine has another C library)"),
        ({"bash": ""}, "bash, through which Triton"),
    ],
)
def test_what_else_may_be_missing(scripts, said, machine):
    done = check(sys.executable, PATH=machine(**scripts))
    assert done.returncode == 1
    assert said in done.stderr


def test_a_library_of_another_python_is_not_taken(tmp_path):
    """As in `find_libpython`: otherwise the demo would fail after all its work."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, sysconfig\n"
        "sys.base_prefix = '/opt/python'\n"
        "sysconfig.get_config_vars()['LIBDIR'] = '/opt/python/lib'\n"
    )
    done = check(sys.executable, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "the shared library of Python" in done.stderr


@pytest.mark.parametrize(
    ("smi", "code", "said"),
    [
        ("echo 570.86.15", 1, "missing: an NVIDIA driver for CUDA 13 (this is 570.86.15)"),
        ("echo 580.65.06", 0, ""),
        ("", 0, "note: no NVIDIA GPU answers here"),
        ("echo Failed to initialize NVML; exit 9", 0, "note: no NVIDIA GPU answers here"),
    ],
)
def test_a_gpus_environment_needs_its_driver(smi, code, said, machine):
    done = check(sys.executable, "gpu", PATH=machine(nvidia_smi=smi))
    assert done.returncode == code
    assert said in done.stderr
    assert bool(done.stderr) is bool(said)
