"""The list of parity runs that is kept beside a release, and what it says of who may serve.

Every run that compared answers is appended, the export's own check first. The newest must have
passed. Every plan that the config would load is named by its SHA-256 in a passed run and in no
later failed one. Nothing else is remembered.

The list is `ctclip_check/VERSION/parity_runs.jsonl`, an object a line, never edited. It travels
with its version, and holds no name of a scan: that may name a patient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from ctclip_client.contract import CHECK
from ctclip_client.release.json_records import damaged, parse, read_bytes, read_record
from ctclip_client.release.records import PROVENANCE, read_model_record
from ctclip_client.system.files import locked, placed

FILE = "parity_runs.jsonl"
OLD_FILE = "ladder.json"
"""The last verdict only, as ctclip kept it before there was a list."""
EXPORT = "export"
"""The step that stands for the export's own comparisons."""

_RESTORE = "Restore the file from a copy, or export the release again."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class ParityStep:
    """What one way of computing the answer came to.

    verdict: PASS, FAIL or NOT RUN. figures: by name, of the worst scan.
    """

    name: str
    verdict: str
    reason: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ParityRun:
    """One run of a parity check.

    release: its name. steps: those that compare answers, also where they could not run.
    reference: what they were compared with.
    scans: how many. sample: whether they are the public chest CT and its variations.
    failures: why it failed, in words. date: in UTC; "" if unknown.
    engines: SHA-256 of the plans that took part, by model; empty where no engine ran.
    """

    release: str
    passed: bool
    steps: tuple[ParityStep, ...] = ()
    reference: str = ""
    scans: int = 0
    sample: bool = False
    failures: tuple[str, ...] = ()
    engines: Mapping[str, str] = field(default_factory=dict)
    date: str = field(default_factory=_now)

    @property
    def compared(self) -> bool:
        """Whether a step compared answers, or tried to and failed."""
        return any(step.verdict != "NOT RUN" for step in self.steps)


def objection(runs: Sequence[ParityRun], engines: Mapping[str, str]) -> str:
    """Why a release may not serve, in words; "" if it may. See the module for the rule.

    runs: of `read_runs`. engines: SHA-256 of the plans that the configs would load, by model.
    """
    if not runs:
        return "it was never compared with the reference"
    if not runs[-1].passed:
        return f"its newest parity run failed: {'; '.join(runs[-1].failures) or 'nothing passed'}"
    for model, digest in engines.items():
        named = [run.passed for run in runs if run.engines.get(model) == digest]
        if not named:
            return f"the engine of '{model}' was never compared with the reference"
        if not named[-1]:
            return f"the engine of '{model}' took part in a failed parity run, and in none since"
    return ""


def read_runs(repository: Path, version: int) -> tuple[ParityRun, ...]:
    """The runs of the release that lies in a version, the oldest first.

    `ladder.json`, where an older ctclip left it, counts as the run before the list. Where there is
    neither, the export's results in `provenance.json` count as one.

    Raises:
        Unreadable: a file or a line is damaged; the cause names it, the field, got and expected.
    """
    folder = _folder(repository, version)
    release = read_model_record(folder).release.name
    runs = []
    if (folder / OLD_FILE).exists():
        runs.append(_read_old(folder / OLD_FILE))
    if (folder / FILE).exists():
        lines = read_bytes(folder / FILE, _RESTORE).splitlines()
        runs += [_read_line(folder / FILE, n, line) for n, line in enumerate(lines, start=1)]
    own = tuple(run for run in runs if run.release == release)
    return own or (export_run(repository, version, date=""),)


def append_run(repository: Path, version: int, run: ParityRun) -> bool:
    """Append a run to the list, all of it or nothing. False for a run that compared nothing.

    Raises:
        Unreadable: the list is damaged, and stays as it is.
        OSError: it cannot be written.
    """
    if not run.compared:
        return False
    path = _folder(repository, version) / FILE
    with ExitStack() as stack:
        with suppress(OSError):  # on a disk without locks, two that end together may lose one
            stack.enter_context(locked(path.parent, wait=True))
        read_runs(repository, version)
        before = read_bytes(path).rstrip() + b"\n" if path.exists() else b""
        with placed(path) as file:
            file.write(before.lstrip() + _line(run))
    return True


def export_run(repository: Path, version: int, *, date: str | None = None) -> ParityRun:
    """The export's own check as a run, out of the records that it has written.

    Raises: Unreadable.
    """
    folders = sorted(path.parent for path in repository.glob(f"*/{version}/{PROVENANCE}"))
    records = {folder.parent.name: read_model_record(folder) for folder in folders}
    failures = tuple(
        f"{model}: {record.parity_failure}"
        for model, record in records.items()
        if record.parity_failure
    )
    figures = {
        f"{result.model}: {result.quantity}": result.measured
        for record in records.values()
        for result in record.parity
    }
    return ParityRun(
        release=records[CHECK.name].release.name,
        passed=not failures,
        steps=(ParityStep(EXPORT, "FAIL" if failures else "PASS", "; ".join(failures), figures),),
        reference="PyTorch",
        failures=failures,
        date=_now() if date is None else date,
    )


def _folder(repository: Path, version: int) -> Path:
    return repository / CHECK.name / str(version)


def _line(run: ParityRun) -> bytes:
    """NaN and infinity, which JSON does not have, become null."""
    content = asdict(run)
    for step in content["steps"]:
        step["figures"] = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in step["figures"].items()
        }
    return json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read_line(path: Path, number: int, line: bytes) -> ParityRun:
    try:
        return parse(ParityRun, json.loads(line))
    except (ValueError, RecursionError) as error:  # also WrongFieldError
        raise damaged(path, f"line {number}: {error}", _RESTORE) from error


@dataclass(frozen=True)
class _OldVerdict:
    """`ladder.json`."""

    release: str
    passed: bool
    failures: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()
    plans: Mapping[str, str] = field(default_factory=dict)
    failed_plans: Mapping[str, str] = field(default_factory=dict)
    scans: int = 0
    sample: bool = False
    date: str = ""


def _read_old(path: Path) -> ParityRun:
    old = read_record(_OldVerdict, path, _RESTORE)
    return ParityRun(
        release=old.release,
        passed=old.passed,
        steps=tuple(ParityStep(name, "FAIL" if name in old.failed else "PASS") for name in old.ran),
        scans=old.scans,
        sample=old.sample,
        failures=old.failures,
        engines={**old.plans, **old.failed_plans},
        date=old.date,
    )
