"""`pip install` with one moving line: what is being fetched, and how much of it has come.

    python scripts/install.py ARGUMENTS_OF_PIP_INSTALL...

pip by itself says nothing for minutes or fills the screen. Where nobody watches (no terminal, or
CI) this says nothing, either, unless something is wrong. It needs no more than Python and pip.
"""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_FILE = re.compile(r"\s*Downloading (?:\S*/)?([^-\s]+)-([^-\s]+)-\S+ \(([\d.]+) ([kMG]?B)\)")
_BAR = re.compile(r"\s*[━╸╺\s-]*\s([\d.]+/[\d.]+ [kMG]?B)\s")
_UNPACKED = re.compile(r"Installing collected packages: (.+)")
_PREPARED = re.compile(r"\s*(?:Obtaining|Processing) (?:file://)?\S*?([^/\s]+)/?(?: \(.*)?$")
_MEGABYTES = {"B": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}


class Shown:
    """The line on the terminal, made of what pip has said so far."""

    def __init__(self) -> None:
        self.text = "asking for the packages' versions"
        self.files = 0
        self.megabytes = 0.0
        self.packages = 0

    def take(self, piece: str) -> None:
        """One line of pip's, or one state of its bar."""
        if found := _FILE.match(piece):
            name, version, size, unit = found.groups()
            if ".metadata" not in piece:
                self.files += 1
                self.megabytes += float(size) * _MEGABYTES[unit]
                self.text = f"fetching {name} {version} ({size} {unit})"
        elif found := _BAR.match(piece):
            self.text = f"{self.text.partition(' (')[0]} ({found[1]})"
        elif found := _UNPACKED.match(piece):
            self.packages = found[1].count(",") + 1
            self.text = f"unpacking {self.packages} packages"
        elif found := _PREPARED.match(piece):
            self.text = f"preparing {found[1].split('-')[0]}"

    def summary(self) -> str:
        """What was done, "" for nothing."""
        if not self.packages:
            return ""
        fetched = f", {self.megabytes:,.0f} MB fetched" if self.files else ""
        return f"  {self.packages} packages unpacked{fetched}\n"


def main(arguments: Sequence[str]) -> int:
    """Run pip; return its exit code."""
    command = [sys.executable, "-m", "pip", "install", *arguments]
    if not sys.stderr.isatty() or os.environ.get("CI"):
        return subprocess.call([*command, "--quiet"])
    width = shutil.get_terminal_size().columns - 1
    shown, said, began = Shown(), [], time.monotonic()
    master, terminal = pty.openpty()
    # pip draws its bar only on a terminal, and only as wide as that.
    environment = os.environ | {"COLUMNS": "80", "PIP_PROGRESS_BAR": "on"}
    with subprocess.Popen(command, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        try:
            for piece in _pieces(master):
                shown.take(piece)
                if piece and not _BAR.match(piece):
                    said.append(piece)
                seconds = int(time.monotonic() - began)
                line = f"  {seconds // 60}:{seconds % 60:02} {shown.text}"
                _write(f"\r\x1b[2K{line[:width]}")
        finally:
            _write("\r\x1b[2K")
    if process.returncode:
        _write("\n".join([*said[-30:], ""]))
    else:
        _write(shown.summary())
    return process.returncode


def _pieces(master: int) -> Iterator[str]:
    """What pip writes, cut at line ends and where it begins a line anew; without colours.

    "" after each second in which it writes nothing: unpacking takes many, and the clock goes on.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    while True:
        if not select.select([master], [], [], 1)[0]:
            yield ""
            continue
        try:
            chunk = os.read(master, 65536)
        except OSError:  # what Linux says when the last writer has gone
            chunk = b""
        *pieces, rest = re.split(r"[\r\n]+", rest + decoder.decode(chunk, final=not chunk))
        for piece in pieces if chunk else [*pieces, rest]:
            if text := _COLOURS.sub("", piece).rstrip():
                yield text
        if not chunk:
            return


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
