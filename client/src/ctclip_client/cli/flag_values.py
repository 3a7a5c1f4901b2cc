"""Values of flags that several commands have, as `argparse` takes them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ctclip_client.contract import SPACING_MM_RANGE
from ctclip_client.errors import InvalidInput


def volume_shape(text: str) -> tuple[int, int, int]:
    """`ZxXxY` in voxels. Raises: ArgumentTypeError."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(
        part.isascii() and part.isdigit() and 0 < len(part) < 6 and int(part) > 0 for part in parts
    ):
        raise argparse.ArgumentTypeError(f"got '{text}', expected ZxXxY such as 240x480x480")
    z, x, y = (int(part) for part in parts)
    return z, x, y


def some_path(text: str) -> Path:
    """A path; an empty one, of a shell's variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("got '', expected a path")
    return Path(text)


def spacing_mm(text: str) -> tuple[float, float, float]:
    """`Z,X,Y` within the contract's limits. Raises: ArgumentTypeError."""
    low, high = SPACING_MM_RANGE
    try:
        z, x, y = (float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected three numbers z,x,y in millimetres, for instance 1.5,0.75,0.75"
        ) from error
    if not all(low < value < high for value in (z, x, y)):
        raise argparse.ArgumentTypeError(
            f"got '{text}', expected each more than {low:g} and less than {high:g} mm"
        )
    return z, x, y


def seconds(text: str) -> float:
    """A finite number above 0. Raises: ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"got '{text}', expected seconds, more than 0")
    return value


def add_reading_options(parser: argparse.ArgumentParser, title: str) -> None:
    """Add what `read_volume` can be told of a scan: see `reading_options`."""
    group = parser.add_argument_group(title)
    group.add_argument(
        "--as-stored", action="store_true",
        help="do not reorient: the stored array runs [x, y, z] towards Left, Posterior, Superior",
    )  # fmt: skip
    group.add_argument(
        "--spacing", type=spacing_mm, metavar="Z,X,Y", help="in millimetres, with --as-stored"
    )
    group.add_argument(
        "--slope",
        type=float,
        help="HU = slope · stored + intercept, instead of the file's own (upstream's "
        "script: on top of it)",
    )
    group.add_argument("--intercept", type=float, help="goes with --slope")
    group.add_argument("--series", metavar="UID", help="of several in a path: ctclip series PATH")
    group.add_argument(
        "--metadata", type=Path, metavar="CSV",
        help="CT-RATE's table, for its files: read as stored, with spacing, slope and intercept of "
        "the scan's row, which is applied on top of the file's own scaling as upstream's script "
        "does it, but never to values that are Hounsfield units only without it",
    )  # fmt: skip
    group.add_argument(
        "--any-region", action="store_true",
        help="also read a scan without lung in its middle, which is what the model sees",
    )  # fmt: skip


def is_given(args: argparse.Namespace, name: str) -> bool:
    """Whether an option stands on the command line; 0 is a value, too."""
    value = getattr(args, name)
    return value is not None and value is not False


def flag(name: str) -> str:
    """The option whose value `argparse` keeps under this name."""
    return f"--{name.replace('_', '-')}"


def reading_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `read_volume`: checked, and the table of --metadata read, once for
    all scans.

    Raises:
        InvalidInput: see `rescale`; --metadata together with what its row says, or unreadable.
    """
    from ctclip_client.readers.metadata import Metadata

    options = {
        "as_stored": args.as_stored,
        "spacing_mm": args.spacing,
        "series": args.series,
        "any_region": args.any_region,
    }
    if args.metadata is None:
        return {**options, "rescale": rescale(args)}
    for name in ("spacing", "slope", "intercept"):
        if is_given(args, name):
            raise InvalidInput(
                f"--metadata and {flag(name)} exclude each other.",
                "Leave one of them out: spacing, slope and intercept stand in the scan's row.",
            )
    return {**options, "metadata": Metadata.from_file(args.metadata)}


def rescale(args: argparse.Namespace) -> tuple[float, float] | None:
    """(slope, intercept), or None where neither is given.

    Raises:
        InvalidInput: one of them is missing, or --as-stored and --spacing do not come together.
    """
    for first, second, remedy in (
        ("slope", "intercept", "HU = slope · stored + intercept; give both."),
        ("as_stored", "spacing", "For instance --as-stored --spacing 2.5,0.7,0.7; without both, "
         "the file's header is used."),
    ):  # fmt: skip
        if is_given(args, first) != is_given(args, second):
            raise InvalidInput(
                f"{flag(first)} and {flag(second)} belong together, one is missing.", remedy
            )
    return None if args.slope is None else (args.slope, args.intercept)
