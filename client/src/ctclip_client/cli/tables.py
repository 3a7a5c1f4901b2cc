"""The findings of a scan for a person's eyes."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ctclip_client.cli.predictions import Prediction
from ctclip_client.results import Classification, Scores
from ctclip_client.system.terminal import printable

_OF_SENTENCES = (
    "A probability says which of the two sentences of a finding the scan is closer to; 0.5 is "
    "undecided. It is not calibrated and not a diagnosis."
)
_OF_CLASSES = (
    "A probability is the answer of a head that was trained on these findings. It is "
    "not calibrated and not a diagnosis."
)
_NARROWEST_NAME = 12
_INDENT = "  "
RANDOM_WEIGHTS = "RANDOM WEIGHTS: a demo checkpoint. These numbers mean nothing."


class TablePrinter:
    """Prints one table for each scan, and once at the end what the numbers are."""

    def __init__(self, stdout: TextIO) -> None:
        # Paths and findings are shown as they are, but for what would steer the terminal: no
        # markup, no highlighting, no emoji codes.
        self._console = Console(file=stdout, markup=False, highlight=False, emoji=False)
        self._meaning = ""

    def show(self, scan: Prediction) -> None:
        """Print one scan."""
        scores, provenance = scan.scores, scan.scores.provenance
        if self._meaning:
            self._console.print()
        below = self._say_below
        self._say(scan.path, "bold")
        for line in scan.card_lines():
            below(line)
        for note in scan.notes:
            below(f"note: {note}", "yellow")
        below(
            f"release {provenance.release}, checkpoint {provenance.checkpoint_name}, "
            f"{provenance.precision}"
        )
        timings = ", ".join(f"{stage} {ms:.0f}" for stage, ms in scan.timings_ms.items())
        kind = scores.transport.kind.replace("_", " ")
        below(f"{scores.transport.bytes / 1e6:.1f} MB by {kind}; milliseconds: {timings}")
        if scan.maps_index is not None:
            below(f"relevance maps: {scan.maps_index.parent}")
        if provenance.random_weights:
            random = Text(RANDOM_WEIGHTS, "bold red", justify="center")
            self._console.print(Panel(random, border_style="red"))
        table = _table(scores)
        if least_width(self._console, table) <= self._console.width:
            self._console.print(table)
        else:
            self._list(scores)
        self._meaning = _OF_SENTENCES if isinstance(scores, Scores) else _OF_CLASSES

    def close(self) -> None:
        """Print what the numbers are, if there were any."""
        if self._meaning:
            self._console.print(Text(self._meaning, "dim"))

    def _list(self, scores: Classification) -> None:
        """The same for a terminal that has no room for columns: a number a line."""
        titles = ("Probability", "Logit present", "Logit absent")
        for name, *numbers in scores.rows():
            self._say(name, "bold")
            for title, value in zip(titles, numbers, strict=False):
                if value is not None:
                    line = Text(f"  {title:<13} {value:8.3f}")
                    self._console.print(line, soft_wrap=True)

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(printable(line), style))

    def _say_below(self, line: str, style: str = "") -> None:
        """Indented, and where it takes several lines of the terminal, all of them."""
        width = max(self._console.width - len(_INDENT), 1)
        for part in Text(printable(line), style).wrap(self._console, width):
            self._console.print(Text(_INDENT) + part)


def print_table(console: Console, table: Table) -> None:
    """Print all of a table: no terminal is so narrow that a column is left out."""
    least = least_width(console, table)
    if least > console.width:
        table.width = least
    console.print(table, crop=False)


def least_width(console: Console, table: Table) -> int:
    """Columns of the terminal that a table needs: the longest word of each of its own."""
    return Measurement.get(console, console.options.update(width=1000), table).minimum


def _table(scores: Classification) -> Table:
    """Names fold where there is no room for them, numbers never do."""
    random = scores.provenance.random_weights
    table = Table(caption=RANDOM_WEIGHTS if random else None, caption_style="red")
    table.add_column("Finding", overflow="fold", min_width=_NARROWEST_NAME)
    rows = [
        (name, *(f"{value:.3f}" for value in numbers if value is not None))
        for name, *numbers in scores.rows()
    ]
    titles = ("Probability", "Logit\npresent", "Logit\nabsent")
    for index, title in enumerate(titles if isinstance(scores, Scores) else titles[:1], 1):
        widest = max(len(text) for text in (*title.split("\n"), *(row[index] for row in rows)))
        table.add_column(title, justify="right", no_wrap=True, min_width=widest)
    for name, *numbers in rows:
        table.add_row(Text(printable(name)), *numbers)
    return table
