"""How the tests of `ctclip doctor` run it, and copies of the repository that they may damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ctclip_client.cli.program import main


@dataclass(frozen=True)
class Outcome:
    """What one run of the command gave."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.out)
        return content

    def check(self, name: str, about: str = "") -> dict[str, Any]:
        found = [c for c in self.report["checks"] if (c["name"], c["about"]) == (name, about)]
        assert len(found) == 1, f"{name} {about}: {len(found)} checks"
        return found[0]

    def verdict(self, name: str, about: str = "") -> str:
        return str(self.check(name, about)["verdict"])

    def titles(self, verdict: str) -> set[str]:
        return {
            f"{c['name']} {c['about']}".strip()
            for c in self.report["checks"]
            if c["verdict"] == verdict
        }


Doctor = Callable[..., Outcome]


def edit_record(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a `provenance.json`."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Run `ctclip doctor ARGUMENTS`; --json unless `json=False`."""

    def run(*arguments: object, json: bool = True) -> Outcome:
        capsys.readouterr()
        try:
            code = main(["doctor", *map(str, arguments), *(["--json"] if json else [])])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(code, captured.out, captured.err)

    return run
