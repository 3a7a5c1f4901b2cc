"""Fixtures of the deployment's tests."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable

import pytest

from .support import run_serve


@pytest.fixture(scope="session")
def serve(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`serve(arguments, VARIABLE=value, …)`: its output is what tritonserver would be given."""
    return functools.partial(run_serve, tmp_path_factory.mktemp("programs"))
