"""One JSON schema for every measurement: a machine, a subject, and rows of figures.

Figures without units in their names are counts or shares (0 to 1). A row that compares speeds has a
parity figure: what answers wrongly has no speed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ctclip_bench.machine import describe_machine
from ctclip_client.errors import InvalidInput
from ctclip_export.parity.judge import StepVerdict

FORMAT = 3
"""Raised whenever a key of the JSON changes its meaning."""
DATASHEET = "datasheet"
"""In the setting `device` of a bound that nobody measured."""
FEW = 100
"""With fewer runs, the 99th percentile is little more than the slowest of them."""


@dataclass(frozen=True)
class Times:
    """Of n runs, in milliseconds; percentiles by linear interpolation (NumPy's default)."""

    n: int
    p50: float
    p90: float
    p99: float
    least: float
    largest: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Times:
        """milliseconds: one at least."""
        values = np.asarray(milliseconds, np.float64)
        p50, p90, p99 = (float(np.percentile(values, share)) for share in (50, 90, 99))
        return cls(len(values), p50, p90, p99, float(values.min()), float(values.max()))


@dataclass(frozen=True)
class Parity:
    """How a row's answers compare with the reference's. verdict: PASS or FAIL.

    against: what they were compared with. codes_agree: share of equal codes, None where a row does
    not show them; cosine: the least of the embeddings; logit_difference, probability_difference:
    the largest, None where a row has no scores.
    """

    verdict: str
    against: str
    codes_agree: float | None = None
    cosine: float | None = None
    logit_difference: float | None = None
    probability_difference: float | None = None
    reason: str = ""

    @classmethod
    def of(cls, verdict: StepVerdict, against: str) -> Parity:
        """From the judge of `ctclip parity`."""
        return cls(
            verdict.verdict, against, verdict.codes_agree, verdict.cosine,
            verdict.logit_difference, verdict.probability_difference, verdict.reason,
        )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of a table.

    table: which one, "vision" or "from file to answer". name: what was run, as people say it.
    settings: what was chosen (precision, runtime, clients, slices). times: of one run, request or
    scan. figures: everything else that was found, units in the names (`peak_gib`, `scans_per_s`,
    `share_of_limit`). not_run: why there are no figures, "" if there are.
    """

    table: str
    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    times_ms: Times | None = None
    parity: Parity | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    not_run: str = ""

    @property
    def is_bound(self) -> bool:
        """Whether it follows from a datasheet, and nobody measured it."""
        return DATASHEET in str(self.settings.get("device"))


@dataclass(frozen=True)
class Result:
    """One run of `ctclip bench`.

    kind: the word of `ctclip bench`. subject: what was measured: release, provenance (as PROVENANCE
    has it, without a file's name), config, geometry, precision, random_weights. plan: the flags
    that matter. verdicts: parity of the whole, printed above every table. passed: every verdict is,
    and every row could be measured.
    No host, no user, no file's name, which may name a patient.
    """

    kind: str
    passed: bool
    subject: Mapping[str, Any]
    plan: Mapping[str, Any]
    rows: tuple[Row, ...]
    verdicts: tuple[Parity, ...] = ()
    notes: tuple[str, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=describe_machine)
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def tables(self) -> dict[str, list[Row]]:
        """Rows by the table they belong to, both in their order."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.table, []).append(row)
        return found

    def table(self, name: str) -> list[Row]:
        """The rows of one table, in their order."""
        return self.tables.get(name, [])

    @property
    def on_gpu(self) -> bool:
        """Whether it is the GPU that was measured."""
        return isinstance(self.machine.get("gpu"), dict) and self.plan.get("device") != "cpu"

    @property
    def machine_name(self) -> str:
        """The GPU, or the processor with its instruction sets and so many cores."""
        if self.on_gpu:
            return str(self.machine["gpu"].get("name"))
        return f"{self.machine.get('cores')} cores of {self.machine.get('processor')}"

    def as_json(self) -> dict[str, Any]:
        """Passed first, then what it is of; unset fields are left out of rows."""
        content = dataclasses.asdict(self)
        content["rows"] = [_without_unset(row) for row in content["rows"]]
        content["verdicts"] = [_without_unset(each) for each in content["verdicts"]]
        return {"format": FORMAT, **content}

    @classmethod
    def from_json(cls, content: Any, where: str) -> Result:
        """Read one back. Raises: InvalidInput, naming `where`, for anything else."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            got = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise InvalidInput(
                f"{where}: format {got}, expected {FORMAT} of ctclip bench.",
                "Name a file that this version of ctclip bench has written.",
            )
        try:
            _check(content)
            rows = tuple(_row(each) for each in content["rows"])
            verdicts = tuple(Parity(**each) for each in content["verdicts"])
            names = (each.name for each in dataclasses.fields(cls))
            given = {name: content[name] for name in names}
            given |= {"rows": rows, "verdicts": verdicts, "notes": tuple(content["notes"])}
            return cls(**given)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InvalidInput(
                f"{where}: no whole result of ctclip bench ({type(error).__name__}: {error}).",
                "Measure again; a kept file is never edited.",
            ) from error


def _without_unset(content: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in content.items():
        if value is None or value in ("", {}):
            continue
        found[key] = _without_unset(value) if key == "parity" else value
    return found


_KINDS: Mapping[str, type] = {
    "kind": str, "passed": bool, "subject": dict, "plan": dict, "rows": list, "verdicts": list,
    "notes": list, "machine": dict, "date": str,
    "table": str, "name": str, "not_run": str, "settings": dict, "figures": dict,
}  # fmt: skip


def _check(content: Mapping[str, Any]) -> None:
    for name, value in content.items():
        if name in _KINDS and not isinstance(value, _KINDS[name]):
            raise TypeError(f"{name}: {type(value).__name__}")


def _row(content: Mapping[str, Any]) -> Row:
    _check(content)
    more: dict[str, Any] = {}
    if "times_ms" in content:
        numbers = {name: float(value) for name, value in content["times_ms"].items()}
        more["times_ms"] = Times(int(numbers.pop("n")), **numbers)
    if "parity" in content:
        more["parity"] = Parity(**content["parity"])
    return Row(**{**content, **more})
