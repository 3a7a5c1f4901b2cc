"""`ctclip promote`: a newer release takes the place of the one that serves."""

from __future__ import annotations

import argparse
from pathlib import Path

from ctclip_server.cli import releases

SUMMARY = "Make a newer release serve, all its models together, without a failed request."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    releases.configure(parser)
    parser.add_argument(
        "--from",
        type=Path,
        metavar="REPOSITORY",
        help="take the release from this export first (default: the repository's highest version)",
    )


def run(args: argparse.Namespace) -> int:
    """Promote.

    Raises:
        CTClipError: it may not serve, or could not; the one that served still does.
    """
    return releases.switch(args, back=False)
