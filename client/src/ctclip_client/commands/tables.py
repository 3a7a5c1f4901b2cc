"""The findings of a scan for a person's eyes."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ctclip_client.commands.predictions import Prediction
from ctclip_client.results import Scores

_OF_SENTENCES = (
    "A probability says which of the two sentences of a finding the scan is closer to; 0.5 is "
    "undecided. It is not calibrated and not a diagnosis."
)
_OF_CLASSES = (
    "A probability is the answer of a head (ClassFine) that was trained on these findings. It is "
    "not calibrated and not a diagnosis."
)
_RANDOM = "RANDOM WEIGHTS: a demo checkpoint. These numbers mean nothing."


class TablePrinter:
    """Prints one table for each scan, and once at the end what the numbers are."""

    def __init__(self, stdout: TextIO) -> None:
        # Paths and findings are shown as they are: no markup, no highlighting, no emoji codes.
        self._console = Console(file=stdout, markup=False, highlight=False, emoji=False)
        self._meaning = ""

    def show(self, scan: Prediction) -> None:
        """Print one scan."""
        scores, provenance = scan.scores, scan.scores.provenance
        spacing = " × ".join(f"{edge:g}" for edge in scan.spacing_mm)
        say = self._console.print
        if self._meaning:
            say()
        say(Text(_printable(scan.path), "bold"))
        say(f"  orientation {scan.source.orientation}, spacing {spacing} mm (z × x × y)")
        say(f"  Hounsfield units: {scan.source.hu_source}")
        for note in scan.source.notes:
            say(Text(f"  note: {note}", "yellow"))
        say(
            f"  release {provenance.release}, checkpoint {provenance.checkpoint_name}, "
            f"{provenance.precision}"
        )
        timings = ", ".join(f"{stage} {ms:.0f}" for stage, ms in scan.timings_ms.items())
        kind = scores.transport.kind.replace("_", " ")
        say(f"  {scores.transport.bytes / 1e6:.1f} MB by {kind}; milliseconds: {timings}")
        if scan.relevance is not None:
            say(f"  relevance maps: {_printable(str(scan.relevance.index.parent))}")
        if provenance.random_weights:
            say(Panel(Text(_RANDOM, "bold red", justify="center"), border_style="red"))
        table = Table(caption=_RANDOM if provenance.random_weights else None, caption_style="red")
        table.add_column("Finding", no_wrap=True)
        titles = ("Probability", "Logit\npresent", "Logit\nabsent")
        by_sentences = isinstance(scores, Scores)
        for title in titles if by_sentences else titles[:1]:
            table.add_column(title, justify="right")
        for name, *numbers in scores.rows():
            table.add_row(Text(name), *(f"{value:.3f}" for value in numbers if value is not None))
        say(table)
        self._meaning = _OF_SENTENCES if by_sentences else _OF_CLASSES

    def close(self) -> None:
        """Print what the numbers are, if there were any."""
        if self._meaning:
            self._console.print(Text(self._meaning, "dim"))


def _printable(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode()
