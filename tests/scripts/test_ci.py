""".ci/run with a stand-in for make: it fails where one of its checks fails, and runs them all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ..programs import Done, run

RUN = Path(__file__).parents[2] / ".ci" / "run"


def ci(programs: Path, failing: str) -> Done:
    """failing: the target for which make fails, if any."""
    make = f'#!/bin/sh\necho "made $*"\ncase " $* " in *" {failing or "-"} "*) exit 2 ;; esac\n'
    for name in ("make", "docker-compose", "grpcurl", "qemu-x86_64"):
        path = programs / name
        path.write_text(make if name == "make" else "#!/bin/sh\n")
        path.chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}
    return run([RUN], env=environment)


@pytest.mark.parametrize(
    ("failing", "said"), [("", ""), ("test", "tests"), ("lint", "style or types")]
)
def test_all_checks_run_and_a_failed_one_is_named(tmp_path: Path, failing: str, said: str) -> None:
    ran = ci(tmp_path, failing)
    assert ran.returncode == (1 if failing else 0)
    assert ran.stderr == (f"FAILED: {said}\n" if failing else "")
    assert ran.stdout == "made environment\nmade test\nmade --keep-going lint types\n"


def test_nothing_is_tested_without_an_environment(tmp_path: Path) -> None:
    ran = ci(tmp_path, "environment")
    assert (ran.returncode, ran.stdout) == (2, "made environment\n")
