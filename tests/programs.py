"""Programs that tests run to their end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Done = subprocess.CompletedProcess[str]


def run(command: Sequence[str | Path], timeout_s: float = 120, **options: Any) -> Done:
    """Run a program and take what it prints; whether it succeeded is the caller's to check."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout_s, **options
    )
