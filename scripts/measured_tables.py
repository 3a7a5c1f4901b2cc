"""Write the measured tables of docs/numbers.md and benchmarks/README.md from benchmarks/results/.

    .venv/bin/python scripts/measured_tables.py            # write what changed
    .venv/bin/python scripts/measured_tables.py --check    # exit 1 where a page is stale

A table stands between `<!-- measured: NAME -->` and `<!-- end -->`. Of each measurement the newest
result that passed counts, so that a page never says what no kept file does.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ctclip_bench.results.cells import Cells, cells, markdown
from ctclip_bench.results.files import newest
from ctclip_bench.results.result import Result, Row

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "docs" / "numbers.md", ROOT / "benchmarks" / "README.md")
BLOCK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
Kept = Sequence[tuple[Path, Result]]
NOTHING = "Not measured yet.\n"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
PARITY = ("parity", "codes", "cosine", "|Δlogit|")


def about(path: Path, result: Result, folder: str) -> str:
    """Machine, what was measured, verdict."""
    subject = result.subject
    told = [result.machine_name, result.date[:10]]
    told += [f"{key} {subject[key]}" for key in ("precision", "config") if key in subject]
    if subject.get("random_weights"):
        told.append("random weights")
    if result.verdicts:
        told.append(f"parity {' and '.join(sorted({each.verdict for each in result.verdicts}))}")
    cosines = [each.cosine for each in result.verdicts if each.cosine is not None]
    if cosines:
        told.append(f"least cosine {min(cosines):.6f}")
    return f"{', '.join(told)} ([the whole result]({folder}{path.name})):"


def tables(
    kind: str,
    names: Sequence[str],
    columns: Sequence[str],
    only: str = ".*",
    *,
    in_precisions: bool = True,
) -> Callable[[Kept, str], str]:
    """A table for each result of the kind; where it has several tables of ours, they are told.

    columns: those that a page has room for. only: a pattern of the names of rows that are shown.
    in_precisions: also of results that `precisions` shows.
    """

    def write(kept: Kept, folder: str) -> str:
        parts = []
        elsewhere = [] if in_precisions else [p for e in _by_precision(kept).values() for p, _ in e]
        for path, result in kept:
            if path in elsewhere:
                continue
            found: list[Cells] = []
            for name in names if result.kind == kind else ():
                for row in result.table(name):
                    if row.not_run or not re.fullmatch(only, row.name):
                        continue
                    known = cells(row) | ({"table": name} if len(names) > 1 else {})
                    if known.keys().isdisjoint(set(columns) - {""}):
                        continue  # a guard, say: whether it answered, and no time
                    found.append(
                        {each: known[each] for each in ("table", *columns) if each in known}
                    )
            if found:
                parts.append(f"{about(path, result, folder)}\n\n{markdown(found)}")
        return "\n".join(parts) or NOTHING

    return write


def _by_precision(kept: Kept) -> dict[str, list[tuple[Path, Result]]]:
    """Of each machine on which graphs of several precisions were timed: these results."""
    found: dict[str, list[tuple[Path, Result]]] = {}
    for path, result in kept:
        if result.kind == "graphs" and result.subject.get("precision") in PRECISIONS:
            found.setdefault(result.machine_name, []).append((path, result))
    return {machine: each for machine, each in found.items() if len(each) > 1}


def precisions(kept: Kept, folder: str) -> str:
    """The image encoder in each precision on one machine. Each was a run of its own, so its time is
    told as a share of PyTorch's in the same run, too."""
    parts = []
    for machine, results in _by_precision(kept).items():
        rows: list[Cells] = []
        for path, result in sorted(
            results, key=lambda each: PRECISIONS.index(each[1].subject["precision"])
        ):
            timed = [
                (row, row.times_ms.p50)
                for row in result.table("vision")
                if row.times_ms is not None
            ]
            (pytorch_ms,) = (ms for row, ms in timed if row.name == "PyTorch fp32, eager")
            link = f"[{result.subject['precision']}]({folder}{path.name})"
            for row, ms in timed:
                if row.name.startswith("PyTorch"):
                    continue
                known = cells(row)
                rows.append(
                    {"export": link, "": row.name, "p50 ms": known["p50 ms"],
                     "of PyTorch fp32": f"{ms / pytorch_ms:.2f}"}
                    | {name: known[name] for name in PARITY if name in known}
                )  # fmt: skip
        weights = ", random weights" if results[0][1].subject.get("random_weights") else ""
        parts.append(f"{machine}, {results[0][1].date[:10]}{weights}:\n\n{markdown(rows)}")
    return "\n".join(parts) or NOTHING


def missing(kept: Kept, _: str) -> str:
    """What is not known of GPUs, and of lower precisions without one."""
    on_cuda = [r for _, r in kept if r.kind == "gpu" and r.plan.get("device") == "cuda"]
    if not on_cuda:
        told = "any GPU; `ctclip bench gpu` was rehearsed on a CPU"
    elif not any(row for result in on_cuda for row in result.table("triton") if not row.not_run):
        told = "Triton and TensorRT engines on a GPU"
    else:
        told = "TensorRT engines on a GPU"
    graphs = [result.subject.get("precision") for _, result in kept if result.kind == "graphs"]
    lower = [name for name in PRECISIONS[1:] if name not in graphs]
    if lower:
        told += f"; exports in {', '.join(lower)} on a CPU"
    return f"Not measured: {told}. `docker compose` was checked without a docker engine.\n"


def in_short(kept: Kept, _: str) -> str:
    """What a reader asks first, of the rows of float32 that the tables below have."""
    found = [
        (*told, result.machine_name)
        for _, result in kept
        if result.subject.get("precision", "fp32") == "fp32"
        and result.subject.get("config", "default") == "default"
        for row in result.rows
        if (told := _told(result.kind, row))
    ]
    lines = [f"| {what} | {amount} | {machine} |" for _, what, amount, machine in sorted(found)]
    return "\n".join(["| what | how much | where |", "|---|---|---|", *lines, ""])


def _told(kind: str, row: Row) -> tuple[int, str, str] | None:
    """What is worth a line of a row: its place, what it is, how much."""
    place, times = (kind, row.table, row.name), row.times_ms
    peak = row.figures.get("peak_gib")
    if place == ("growth", "scans", "scans 20") and times is not None:
        count = round(20 * 3_600_000 / times.p50, -1)
        return 0, "scans an hour, `ctclip predict` over 20 files", f"{count:,.0f}"
    if place == ("file", "stages", "whole") and times is not None:
        return 1, "one scan, from its file to the findings", f"{times.p50 / 1000:.1f} s"
    if kind == "serve" and row.table == "clients" and peak:
        return (
            2,
            f"memory of the server, scans at once: {row.name.removeprefix('clients ')}",
            f"{peak:.1f} GiB at most",
        )
    if place == ("file", "processes", "client") and peak:
        return 3, "memory of the client, one scan", f"{peak:.2f} GiB at most"
    if place == ("gpu", "onnx", "vision fp32") and times is not None:
        return 4, "the image encoder alone", f"{times.p50:.0f} ms a scan"
    return None


BLOCKS: dict[str, Callable[[Kept, str], str]] = {
    "short": in_short,
    "graphs": tables(
        "graphs", ["vision", "text", "preprocess"],
        ("", "p50 ms", "p90 ms", "share of limit", *PARITY), in_precisions=False,
    ),
    "precisions": precisions,
    "whole": tables(
        "graphs", ["whole scan"], ("", "p50 ms", *PARITY),
    ),
    "file": tables("file", ["stages"], ("", "p50 ms", "p90 ms")),
    "serve": tables(
        "serve", ["scenarios", "clients"],
        ("", "n", "p50 ms", "p90 ms", "p99 ms", "scans per s", "peak gib"),
    ),
    "growth": tables(
        "growth", ["slices", "matrix", "prompts", "clients", "scans"],
        ("fixed ms", "per unit ms", "power"), only="fit",
    ),
    "run": tables(
        "growth", ["scans"],
        ("", "p50 ms", "client core s a scan", "wall of bound"), only="scans .*",
    ),
    "gpu": tables(
        "gpu", ["parity", "onnx", "latency", "transfer", "compile", "triton"],
        ("", "p50 ms", "p90 ms", *PARITY),
    ),
    "gpu_short": tables(
        "gpu", ["onnx", "transfer", "compile"], ("", "p50 ms", "p90 ms", *PARITY),
        only="preprocess for GPUs|preprocess and vision, VOXELS in place|vision .*",
    ),
    "missing": missing,
}  # fmt: skip


def generated(page: str, kept: Kept, folder: str) -> str:
    """The page with its tables as the kept results have them now. folder: where those lie."""
    unknown = {name for _, name, _ in BLOCK.findall(page)} - set(BLOCKS)
    if unknown:
        raise SystemExit(f"No measurement is called {', '.join(sorted(unknown))}.")
    return BLOCK.sub(lambda block: f"{block[1]}{BLOCKS[block[2]](kept, folder)}{block[3]}", page)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write the measured tables of the pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    arguments = parser.parse_args(argv)
    kept = newest(RESULTS)
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        folder = Path(os.path.relpath(RESULTS, page.parent)).as_posix()
        after = generated(before, kept, f"{folder}/")
        if arguments.check and before != after:
            raise SystemExit(f"{page.name} is stale. Run scripts/measured_tables.py.")
        if not arguments.check:
            page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
