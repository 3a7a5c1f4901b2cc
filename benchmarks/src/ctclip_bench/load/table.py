"""A measurement on the terminal, verdict first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ctclip_bench.load.figures import FEW, Level
from ctclip_bench.load.measure import Measurement
from ctclip_bench.load.memory import Usage
from ctclip_client.cli.tables import print_table

_BUSY = 0.3  # share of the cores that other work took, from which it is worth a line
_PHASES = ("queue", "compute_input", "compute_infer", "compute_output")


def show(console: Console, found: Measurement, content: Mapping[str, Any]) -> None:
    """Print the verdict, and under a passed one the numbers. content: the JSON of it."""
    for line in _verdict_lines(found, content):
        console.print(line, highlight=False, soft_wrap=True)
    console.print()
    if not found.right:
        console.print("No timings: what answers wrongly has no latency.", highlight=False)
        return
    print_table(console, _levels(found.levels))
    for level in _ends(found):
        print_table(console, _stages(level))
    for line in _remarks(found, content):
        console.print(line, highlight=False, soft_wrap=True)


def _verdict_lines(found: Measurement, content: Mapping[str, Any]) -> list[str]:
    """PASS or FAIL of each check, what could not be measured, then what was measured and where."""
    style = "bold green" if found.right else "bold red"
    agreement = found.agreement
    lines = [
        f"[{style}]PARITY {'PASS' if found.right else 'FAIL'}[/] against {agreement.baseline}, "
        f"worst of {len(content['scans'])} scans"
    ]
    for verdict in agreement.verdicts:
        numbers = ""
        if verdict.cosine is not None:
            numbers = (
                f": cosine {verdict.cosine:.6f} (≥ {agreement.bounds.cosine}), |Δprobability| "
                f"{verdict.probability_difference or 0:.1e} (≤ {agreement.bounds.probability:g})"
            )
        why = f" — {escape(verdict.reason)}" if verdict.reason else ""
        lines.append(f"  {verdict.verdict} {verdict.step}{numbers}{why}")
    if found.wrong:
        lines.append(f"  FAIL {len(found.wrong)} answers under load — {escape(found.wrong[0])}")
    elif any(level.n for level in found.levels):
        lines.append("  PASS every answer under load repeats the judged one")
    lines += [f"  [bold red]FAILED[/] {escape(reason)}" for reason in found.failed]
    if content["random_weights"]:
        lines.append("[bold yellow]RANDOM WEIGHTS[/]: a demo checkpoint; its findings mean nothing")
    release, machine, server = content["release"], content["machine"], content["server"]
    shape = "×".join(map(str, release["geometry"]["volume_shape"]))
    gpu = f"{machine['gpu']['name']}, driver {machine['gpu']['driver']}; " if machine["gpu"] else ""
    lines += [
        f"release {release['release']} ({release['precision']}, {shape}), checkpoint "
        f"{release['checkpoint']['sha256'][:16]}…, config {content['config']}",
        f"Triton {server['triton']} ({server['kind']}), vision on "
        f"{server['models']['ctclip_vision']['backend']}; {gpu}{machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB",
    ]
    return lines


def _ends(found: Measurement) -> list[Level]:
    """The whole path under the least and the most load that was measured."""
    measured = [level for level in found.whole_path if level.n]
    return measured[:1] + measured[1:][-1:]


def _levels(levels: Sequence[Level]) -> Table:
    table = _table("Latencies in ms", "level")
    for column in ("n", "errors", "p50", "p95", "p99", "per s", "mean batch"):
        table.add_column(column, justify="right")
    for level in levels:
        how = [str(level.load[key]) for key in ("sent_as", "transport") if key in level.load]
        stages = level.stages or {}
        encoder = stages.get("ctclip_vision") or stages.get("ctclip_text")
        table.add_row(
            level.name + (f" ({', '.join(how)})" if how else ""),
            str(level.n),
            ", ".join(f"{count} {name}" for name, count in level.errors.items())
            or ("FAILED" if level.failure else "0"),
            *(_ms(level.latency_ms[p]) if level.latency_ms else "" for p in ("p50", "p95", "p99")),
            f"{level.throughput_per_s:.3g}",
            "" if encoder is None else f"{encoder.batch:.2g}",
        )
    return table


def _stages(level: Level) -> Table:
    title = f"Inside Triton: {level.name[0].lower()}{level.name[1:]} (mean ms of a request)"
    table = _table(title, "model")
    for column in ("requests", "executions", *(name.replace("_", " ") for name in _PHASES)):
        table.add_column(column, justify="right")
    for name, spent in (level.stages or {}).items():
        phases = (_ms(spent.mean_ms(phase)) for phase in _PHASES)
        table.add_row(name, str(spent.requests), str(spent.executions), *phases)
    return table


def _remarks(found: Measurement, content: Mapping[str, Any]) -> list[str]:
    lines = []
    for level in _ends(found):
        if level.client_ms:
            parts = ", ".join(f"{name} {_ms(value)}" for name, value in level.client_ms.items())
            lines.append(f"On the client's side, {level.name}, medians in ms: {parts}")
    if any(0 < level.n < FEW for level in found.levels):
        lines.append(f"n < {FEW}: there p99 is little more than the slowest request.")
    machine = content["machine"]
    if machine["load_before"] > _BUSY * machine["cores"]:
        lines.append(
            f"This machine was busy before ({machine['load_before']:.1f} of {machine['cores']} "
            "cores): these latencies are too long by what else it did."
        )
    gpu = content["memory"]["gpu"]
    lines.append(
        "GPU memory: " + ("no GPU" if gpu == "no GPU" else _memory(found.gpu) + " (whole GPU)")
    )
    if found.process is not None:
        lines.append(f"Main memory of the server's processes: {_memory(found.process)}")
    return lines + [escape(note) for note in found.notes]


def _memory(usage: Usage | None) -> str:
    if usage is None:
        return "not told"
    sizes = (usage.before_bytes, usage.most_bytes, usage.after_bytes)
    before, most, after = (f"{size / 2**30:.2f} GiB" for size in sizes)
    return f"{before} before, at most {most} under load, {after} afterwards"


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(title: str, first: str) -> Table:
    return Table(first, title=title, title_justify="left", box=SIMPLE_HEAD)
