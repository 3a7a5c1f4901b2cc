"""What a file format has to bring. A further one is one such file, and its line in `registry`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from ctclip_client.grid import Grid

if TYPE_CHECKING:
    from ctclip_client.readers.metadata import Row


def hidden(identifier: str) -> str:
    """SHA-256 of an identifier that is not shown: where it is no UID, it may be a name."""
    return sha256(identifier.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Options:
    """as_stored: no reorientation. spacing_mm: (z, x, y). rescale: (slope, intercept) to use.

    series: the SeriesInstanceUID that somebody asked for. unread_beside: how many files around the
    scan cannot be read. any_region: no chest is expected in the middle
    of the scan, which is what the model sees. metadata: what CT-RATE's table says of the scan;
    `as_stored` and `spacing_mm` are set then.
    """

    as_stored: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    rescale: tuple[float, float] | None = None
    series: str | None = None
    unread_beside: int = 0
    any_region: bool = False
    metadata: Row | None = None


@dataclass(frozen=True)
class Series:
    """One scan among those of a path. uid: DICOM's SeriesInstanceUID, None where there is none.

    left_out: why it is no scan to be scored; "" where it may be taken.
    """

    uid: str | None = None
    left_out: str = ""


@dataclass(frozen=True, eq=False)
class Stored:
    """A scan as its file holds it; `to_volume` turns, checks and packs it for every format alike.

    voxels: reads the array (i, j, k) of integers or floats, best in Fortran order. Called once and
        last, so that whatever a header can be refused for costs no time; the array is not kept.
    spacing_mm: edges of a voxel along (i, j, k).
    affine: (4, 4) float64, from (i, j, k) to (R, A, S) in millimetres. Neither this nor
        `spacing_mm` counts with `Options.as_stored`, and a reader then leaves both at None.
    rescale: (slope, intercept) as the file states them, unchecked; None where it states none.
    notes: what a reader of the result should know, one sentence each.
    spacing_source: where `spacing_mm` stands, in a word or two.
    rescale_source: where slope and intercept come from; None for the usual words.
    sha256: of the file (of a series: of its files' digests, in their order). Asked for when the
        voxels have been read, so that a reader may make it on the way.
    grid: how the file places the scan, for images that shall lie on it, with axes as stored.
    """

    voxels: Callable[[], NDArray[Any]]
    spacing_mm: tuple[float, float, float] | None
    affine: NDArray[Any] | None
    rescale: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    series: Series = Series()
    spacing_source: str = "header"
    rescale_source: str | None = None
    sha256: Callable[[], str] | None = None
    grid: Grid | None = None


class Format(Protocol):
    """A file format. Its file imports what is heavy only where it reads.

    name: for a person ("NIfTI"). suffixes: of file names, lower case; they list and shorten names,
        and never decide what a file is.
    """

    name: str
    suffixes: tuple[str, ...]

    def sniff(self, head: bytes, path: Path, /) -> bool:
        """Say whether a path is of this format.

        head: the first 1024 bytes, unpacked where gzip is around them; empty for a folder.
        """

    def series(self, path: Path, /) -> Sequence[Series]:
        """Say which scans the path holds, the one to take by default first, those that are left
        out last; at least one.

        Raises: Unreadable, OSError.
        """

    def read(self, path: Path, series: Series, options: Options, /) -> Stored:
        """Read the header of one of them.

        Raises: Unreadable, also when its voxels are read; OSError.
        """
