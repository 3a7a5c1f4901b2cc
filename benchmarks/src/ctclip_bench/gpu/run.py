"""All phases, one after another: a JSON file for each at once, and one of all at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ctclip_bench.gpu.rows import NO_MEMORY, WHOLE, line, measured, verdict_of
from ctclip_bench.gpu.settings import Settings
from ctclip_bench.gpu.worker import Worker
from ctclip_bench.graphs.reasons import without_paths
from ctclip_bench.machine import describe_machine
from ctclip_bench.results.files import keep, read, write_json
from ctclip_bench.results.result import Result, Row
from ctclip_client.errors import CTClipError


class Phase(NamedTuple):
    """module: has `measure(subject, rows)`. share: of --limit-s, at most. least_s: with less time
    left it is not begun; estimated for the published geometry on a GPU.
    """

    module: str
    share: float
    least_s: float


_NOTHING = "Nothing was measured."
_PACKAGE = "ctclip_bench.gpu.phases"
PHASES: dict[str, Phase] = {
    "machine": Phase(f"{_PACKAGE}.machine", 0.15, 15),
    "model": Phase(f"{_PACKAGE}.model", 0.35, 30),
    "parity": Phase(f"{_PACKAGE}.parity", 0.25, 20),
    "onnx": Phase(f"{_PACKAGE}.onnx", 0.40, 30),
    "latency": Phase(f"{_PACKAGE}.latency", 0.30, 20),
    "transfer": Phase(f"{_PACKAGE}.transfer", 0.15, 15),
    "compile": Phase(f"{_PACKAGE}.compiled", 0.30, 45),
    "triton": Phase(f"{_PACKAGE}.triton", 0.40, 60),
}


def run_phases(
    settings: Settings,
    names: Sequence[str],
    out: Path,
    limit_s: float,
    *,
    again: bool,
    say: Callable[[str], None],
) -> tuple[Path, Result]:
    """Run them, those that passed before on this machine with these settings excepted.

    Passed: every phase that this machine can run did, within limit_s, and something was measured.
    again: run those, too. say: gets a line for whatever happens. Returns the result of all, and its
    file. Raises: InvalidInput.
    """
    deadline = time.monotonic() + limit_s
    machine = describe_machine()
    done: list[Result] = []
    with closing(Worker(settings)) as worker:
        for name in names:
            path = out / "phases" / f"{name}.json"
            if not again and (result := earlier(path, name, settings, machine)) is not None:
                say(f"{name}: there already")
                for row in result.rows:
                    say(line(row))
                done.append(result)
                continue
            say(f"{name}:")
            started = time.monotonic()
            limits_s = PHASES[name].share * limit_s, deadline - started
            rows, failed = _rows(name, settings, worker, limits_s, say)
            plan = {"phase": name, **settings.plan()}
            done.append(
                Result(
                    "gpu", not failed, settings.subject(), plan, rows, verdict_of(name, rows),
                    machine=machine,
                )
            )  # fmt: skip
            write_json(done[-1].as_json(), path)
            taken_s = time.monotonic() - started
            say(f"{name}: {'FAILED' if failed else 'done'} after {taken_s:.0f} s")
    rows = tuple(row for result in done for row in result.rows)
    something = any(measured(row) for row in rows)
    if not something:
        say(_NOTHING)
    whole = Result(
        "gpu",
        something and all(result.passed for result in done),
        settings.subject(),
        {**settings.plan(), "phases": list(names), "limit_s": limit_s},
        rows,
        tuple(verdict for result in done for verdict in result.verdicts),
        () if something else (_NOTHING,),
        machine=machine,
    )
    return keep(whole, out), whole


def _rows(
    name: str,
    settings: Settings,
    worker: Worker,
    limits_s: tuple[float, float],
    say: Callable[[str], None],
) -> tuple[tuple[Row, ...], bool]:
    """A phase's rows, and whether it failed. limits_s: its own, and what is left of all."""
    phase, (own_s, left_s) = PHASES[name], limits_s
    least_s = 1.0 if settings.small else phase.least_s
    rows: list[Row] = []
    failures: list[bool] = []

    def keep_row(row: Row, bad: bool) -> None:
        rows.append(replace(row, not_run=without_paths(row.not_run, settings.paths())))
        failures.append(bad)
        say(line(rows[-1]))

    if left_s < least_s:
        reason = f"{max(left_s, 0):.0f} s of --limit-s were left, and it needs about {least_s:.0f}"
    else:
        reason = worker.run(phase.module, name, min(own_s, left_s), keep_row)
    if reason:
        keep_row(Row(name, WHOLE, not_run=reason), True)
    return tuple(rows), any(failures)


def earlier(path: Path, name: str, settings: Settings, machine: Mapping[str, Any]) -> Result | None:
    """The result of a phase that passed, of this machine and these settings.

    None also where a part of it had too little memory, or the whole was NOT RUN: next time it may.
    """
    try:
        result = read(path)
    except CTClipError:
        return None
    same = (
        result.passed
        and result.plan == {"phase": name, **settings.plan()}
        and _comparable(result.subject) == _comparable(settings.subject())
        and _same_machine(result, machine)
        and not any(row.name == WHOLE or row.not_run == NO_MEMORY for row in result.rows)
    )
    return result if same else None


def _same_machine(result: Result, machine: Mapping[str, Any]) -> bool:
    """Packages that have come since may be what a row that was NOT RUN has waited for; to a phase
    that lacked nothing they make no difference.
    """
    then, now = _comparable(result.machine), _comparable(machine)
    had, has = then.pop("versions", {}), now.pop("versions", {})
    if not any(row.not_run for row in result.rows):
        has = {name: has.get(name) for name in had}
    return bool(then == now and had == has)


def _comparable(content: Mapping[str, Any]) -> Any:
    """As it comes back from JSON, without what changes from minute to minute."""
    return json.loads(json.dumps({k: v for k, v in content.items() if k != "load_before"}))
