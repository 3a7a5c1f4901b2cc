"""`make environment GPU=1`: what it installs, in which order, and whether the index has it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ..programs import Done, run

ROOT = Path(__file__).parents[2]
FILE = ROOT / "scripts" / "gpu-requirements.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def requirements() -> dict[str, str]:
    """Name -> version."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {each.name: str(each.specifier).strip("=") for each in found}


def make(*arguments: str) -> Done:
    command = [str(shutil.which("make")), "-C", ROOT, "-n", "-B", "environment", "PYTHON=python3"]
    return run([*command, *arguments])


def test_versions_are_those_of_the_serving_image_and_of_the_constraints() -> None:
    found = requirements()
    assert set(found) == {"torch", "onnxruntime-gpu", "tensorrt"}
    dockerfile = (ROOT / "deploy/engines/Dockerfile").read_text(encoding="utf-8")
    assert f"tensorrt-cu13-bindings=={found['tensorrt']}\n" in dockerfile
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"torch=={found['torch']}" in constraints


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_gpus_packages_come_last(tmp_path: Path) -> None:
    """Otherwise our distributions, which ask for onnxruntime, would bring it over the other."""
    venv = f"VENV={tmp_path / 'venv'}"
    told = make("GPU=1", venv).stdout
    order = ["check-machine.sh", " torch ", "-e ./export", "gpu-packages.sh", f"touch {tmp_path}"]
    places = [told.index(part) for part in order]
    assert places == sorted(places)
    assert re.search(r" torch .*\n.*-c scripts/gpu-requirements\.txt", told)
    assert "scripts/gpu-" not in make(venv).stdout
    # Every later call of make, of whatever target, knows which environment it is.
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "installed-gpu").touch()
    assert "gpu-packages.sh" in make(venv).stdout
    refused = make("GPU=1", "TORCH_INDEX_URL=https://example.org/cpu")
    assert refused.returncode != 0
    assert "leave TORCH_INDEX_URL out" in refused.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("before", "now"), [("", "-gpu"), ("-gpu", "")])
def test_an_environment_is_one_of_the_two_and_known_to_be_incomplete(
    before: str, now: str, tmp_path: Path
) -> None:
    """With a stand-in for its Python, which writes down what it is asked to do."""
    python, stamps = tmp_path / "bin" / "python", {"installed", "installed-gpu"}
    python.parent.mkdir()
    (tmp_path / f"installed{before}").touch()
    (tmp_path / "lib/python3.11/site-packages/onnxruntime_gpu-1.28.0.dist-info").mkdir(parents=True)
    command = [
        str(shutil.which("make")), "-C", str(ROOT), f"VENV={tmp_path}", "PYTHON=python3",
        f"GPU={1 if now else 0}", "environment",
    ]  # fmt: skip

    def install(code: int) -> tuple[int, set[str], str]:
        python.write_text(
            f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\n'
            f'case "$*" in *"-r tests"*) exit {code};; esac\n'
        )
        python.chmod(0o755)
        (tmp_path / "calls").write_text("")
        done = run([*command, "-W", "constraints.txt"])
        found = {path.name for path in tmp_path.iterdir()} & stamps
        return done.returncode, found, (tmp_path / "calls").read_text()

    code, found, _ = install(1)
    assert code
    assert found == {f"installed{now}"}
    assert run([*command, "-q"]).returncode == 1  # there is something to be done
    code, found, calls = install(0)
    assert (code, found) == (0, {f"installed{now}"})
    gone = calls.index("uninstall --quiet --yes onnxruntime onnxruntime-gpu\n")
    assert (gone > calls.index("-e ./export")) is bool(now)


@pytest.mark.parametrize(
    ("problems", "tensorrt", "code", "said"),
    [
        ("", 0, 0, ""),
        ("ctclip-export 0.1.0 requires onnxruntime, which is not installed.", 0, 0, ""),
        ("", 1, 0, "NOT INSTALLED: TensorRT. pip says above why; most likely"),
        ("other 1.0 requires onnxruntime, which is not installed.", 0, 1, "other 1.0 requires"),
        (
            "ctclip-server 0.1.0 requires onnxruntime, which is not installed.\n"
            "torch 2.13.0 requires triton, which is not installed.",
            0, 1, "torch 2.13.0 requires triton, which is not installed.\n",
        ),
    ],
)  # fmt: skip
def test_one_onnxruntime_takes_the_place_of_the_other(
    problems: str, tensorrt: int, code: int, said: str, tmp_path: Path
) -> None:
    """With a stand-in for Python, which writes down what pip is asked to do."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\ncase "$*" in\n'
        f'*check) printf "%s" "{problems}"; [ -z "{problems}" ];;\n'
        f"*tensorrt) exit {tensorrt};;\nesac\n"
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "scripts/gpu-packages.sh", str(python)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code
    assert done.stderr.startswith(said)
    assert bool(done.stderr) is bool(said)
    added = "install -c constraints.txt -c scripts/gpu-requirements.txt"
    calls = (tmp_path / "calls").read_text().replace("-m pip --disable-pip-version-check ", "")
    assert calls.splitlines() == [
        "uninstall --quiet --yes onnxruntime onnxruntime-gpu",
        f"{added} onnxruntime-gpu torch",
        f"{added} tensorrt",
        "check",
    ]


def _versions(name: str) -> list[str]:
    """Those that the index has for this Python."""
    found = re.search(
        r"^Available versions: (.*)$", run([*PIP, "index", "versions", name]).stdout, re.M
    )
    return found[1].split(", ") if found else []


def test_the_index_has_them() -> None:
    wanted = requirements()
    with ThreadPoolExecutor(len(wanted)) as pool:
        there = dict(zip(wanted, pool.map(_versions, wanted), strict=True))
    lacking = [name for name, versions in there.items() if not versions]
    missing = [
        f"{name}=={version}"
        for name, version in wanted.items()
        if name not in lacking and version not in there[name]
    ]
    assert missing == []
    if lacking:
        pytest.skip(f"NOT RUN: the index at hand has no {', '.join(lacking)}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime-gpu", "tensorrt"])
def test_pip_resolves_them_beside_the_constraints(name: str) -> None:
    """As a dry run: onnxruntime-gpu with all it needs (250 MB are fetched to read that), TensorRT
    without its libraries, which come from NVIDIA's own index. torch is 530 MB, with CUDA's
    libraries some GB: not fetched for this.
    """
    options = ["--no-deps"] if name == "tensorrt" else ["-c", str(ROOT / "constraints.txt")]
    wanted = f"{name}=={requirements()[name]}"
    command = [*PIP, "install", "--dry-run", "--ignore-installed", *options, wanted]
    done = run(command)
    if "No matching distribution found" in done.stderr and not _versions(name):
        pytest.skip(f"NOT RUN: the index at hand has no {name}")
    assert done.returncode == 0, done.stderr
    (would,) = re.findall(r"^Would install (.*)$", done.stdout, re.M)
    assert wanted.replace("==", "-") in would
    assert not re.search(r"(^| )onnxruntime-\d", would)
