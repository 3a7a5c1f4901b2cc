"""Fixtures of the deployment's tests."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from ..programs import Done
from .support import run_serve


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """`serve(arguments, VARIABLE=value, …)`: its output is what tritonserver would be given."""
    return functools.partial(run_serve, tmp_path_factory.mktemp("programs"))
