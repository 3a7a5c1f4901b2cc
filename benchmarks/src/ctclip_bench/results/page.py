"""Results as one HTML page with nothing to load: verdict, plots, tables, machine."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ctclip_bench.results.cells import cells, columns, number
from ctclip_bench.results.plots import plots
from ctclip_bench.results.result import FEW, Parity, Result, Row

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  color: #1b1f24; background: #fff }
h1 { font-size: 1.5rem } h2 { border-top: 1px solid #ccd; padding-top: 1rem; margin-top: 2.5rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
div.wide { overflow-x: auto }
caption { text-align: left; font-weight: 600; padding: .8rem 0 .2rem }
td, th { padding: .15rem .6rem; border-bottom: 1px solid #e3e6ea; text-align: left }
td.number { text-align: right; white-space: nowrap }
.PASS { color: #116329; font-weight: 600 } .FAIL { color: #b3261e; font-weight: 600 }
.note { color: #57606a } svg { max-width: 100%; height: auto }
nav a { margin-right: 1rem }
"""
_RANDOM = "<p><b>RANDOM WEIGHTS</b>: times are real, findings mean nothing.</p>"
_FEW = f'<p class="note">n below {FEW}: there p99 is little more than the slowest run.</p>'


def page(results: Sequence[tuple[str, Result]]) -> str:
    """name -> result, in their order; a name is that of the JSON file."""
    contents = "".join(
        f'<a href="#r{at}">{escape(name)}</a>' for at, (name, _) in enumerate(results)
    )
    parts = "".join(_section(at, name, result) for at, (name, result) in enumerate(results))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>CT-CLIP on Triton: measurements</title><style>{_STYLE}</style></head><body>"
        f"<h1>CT-CLIP on Triton: measurements</h1><nav>{contents}</nav>{parts}</body></html>\n"
    )


def _section(at: int, name: str, result: Result) -> str:
    drawn = "".join(f"<h3>{escape(title)}</h3>{svg}" for title, svg in plots(result).items())
    tables = "".join(_table(title, rows) for title, rows in result.tables.items())
    return (
        f'<section id="r{at}"><h2>{escape(result.kind)}: {escape(result.machine_name)}</h2>'
        f'<p class="note">{escape(name)}, {escape(result.date)}</p>'
        + "".join(_verdict(each) for each in result.verdicts)
        + ("" if result.passed else '<p class="FAIL">This measurement failed.</p>')
        + (_RANDOM if result.subject.get("random_weights") else "")
        + "".join(f'<p class="note">{escape(note)}</p>' for note in result.notes)
        + drawn
        + tables
        + (_FEW if any(row.times_ms and row.times_ms.n < FEW for row in result.rows) else "")
        + _facts("What was measured", {**result.subject, **result.plan})
        + _facts("Machine", result.machine)
        + "</section>"
    )


def _verdict(parity: Parity) -> str:
    numbers = ", ".join(
        f"{name} {text}"
        for name, text in cells(Row("", "", parity=parity)).items()
        if name not in ("", "parity")
    )
    told = f"Parity <b>{escape(parity.verdict)}</b> against {escape(parity.against)}"
    reason = f" — {escape(parity.reason)}" if parity.reason else ""
    more = f": {escape(numbers)}" if numbers else ""
    return f'<p class="{escape(parity.verdict)}">{told}{reason}{more}</p>'


def _table(title: str, rows: Sequence[Row]) -> str:
    lines = [cells(row) for row in rows]
    names = columns(lines)
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(_cell(name, line.get(name, "")) for name in names) + "</tr>"
        for line in lines
    )
    return (
        f'<div class="wide"><table><caption>{escape(title)}</caption>'
        f"<tr>{head}</tr>{body}</table></div>"
    )


def _cell(name: str, text: str) -> str:
    kind = text if name == "parity" else "number" if text[:1].isdigit() else ""
    return f'<td class="{escape(kind)}">{escape(text)}</td>'


def _facts(title: str, facts: object, level: int = 0) -> str:
    """Settings as a list that can be opened; nested ones nested."""
    if not isinstance(facts, dict):
        return escape(number(facts))
    items = "".join(
        f"<li>{escape(str(key).replace('_', ' '))}: {_facts('', value, level + 1)}</li>"
        for key, value in facts.items()
    )
    if level:
        return f"<ul>{items}</ul>"
    return f"<details><summary>{escape(title)}</summary><ul>{items}</ul></details>"
