"""`ctclip rollback`: the release before takes its place back."""

from __future__ import annotations

import argparse

from ctclip_server.cli import releases

SUMMARY = "Make the release before the present one serve again, without a failed request."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    releases.configure(parser)


def run(args: argparse.Namespace) -> int:
    """Roll back.

    Raises:
        CTClipError: it may not serve, or could not; the one that served still does.
    """
    return releases.switch(args, back=True)
