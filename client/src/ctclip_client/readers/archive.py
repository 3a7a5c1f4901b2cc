"""zip and tar archives of one scan: unpacked into a private folder, which goes with the scan.

Nothing is believed of what an archive says of its members: bytes are counted as they are written.
"""

from __future__ import annotations

import errno
import shutil
import sys
import tarfile
import tempfile
import weakref
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.readers.format import Format, Options, Series, Stored
from ctclip_client.readers.gzip_stream import opened
from ctclip_client.readers.remedies import COPY_AGAIN
from ctclip_client.readers.walk import files_below

ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")
_TAR_MAGIC = (257, b"ustar")
LARGEST_RATIO = 100
"""Unpacked by packed bytes. DICOM and NIfTI come to 2 to 10."""
_FREE_BYTES = 256 << 20
"""So much may come out of any archive: a drawn scan is packed better than a real one."""
LARGEST_BYTES = 16 << 30
MOST_MEMBERS = 100_000
_LARGEST_HEADER_BYTES = 1 << 20
"""Of a member of a tar file, with its name and whatever else is told of it."""
_CHUNK_BYTES = 1 << 20
_UNPACK = "Unpack it yourself, and name the folder or the file of the scan."


class Unpacked:
    """A private folder with what was in an archive. It is removed when nobody holds this any more,
    also by an interrupt."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ctclip-"))
        self.remove = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Packed(Series):
    """A series in an archive. within: as the format of what was unpacked has it."""

    within: Series = field(default_factory=Series)
    form: Format | None = None
    path: Path = Path()
    unpacked: Unpacked | None = None


class Archive:
    """One scan in a zip or tar file, the latter also in gzip: a DICOM folder, or one CT file."""

    name = "archive"
    suffixes: tuple[str, ...] = (".tar.gz", ".tgz", ".tar", ".zip")

    def sniff(self, head: bytes, _path: Path, /) -> bool:
        """The magic of zip or tar."""
        return is_archive(head)

    def series(self, path: Path, /) -> Sequence[Series]:
        """Unpack it, and say what is in it."""
        unpacked = Unpacked()
        with _as_in(path, unpacked):
            _unpack(path, unpacked.folder)
            inner, form = _inner(path, unpacked.folder)
            found = [_named(series, path, unpacked.folder) for series in form.series(inner)]
        return [
            Packed(series.uid, series.left_out, series, form, inner, unpacked) for series in found
        ]

    def read(self, path: Path, series: Series, options: Options, /) -> Stored:
        """As the format of what is in it does."""
        if not isinstance(series, Packed) or series.form is None or series.unpacked is None:
            raise TypeError(f"{path}: a series of another reader")
        unpacked = series.unpacked
        with _as_in(path, unpacked):
            stored = series.form.read(series.path, series.within, options)

        def voxels() -> NDArray:  # type: ignore[type-arg]
            with _as_in(path, unpacked):
                return stored.voxels()

        notes = tuple(note.replace(str(unpacked.folder), str(path)) for note in stored.notes)
        return replace(stored, voxels=voxels, notes=notes, series=series)


def is_archive(head: bytes) -> bool:
    """Whether a file's first bytes are those of a zip or tar archive."""
    start, magic = _TAR_MAGIC
    return head.startswith(ZIP_MAGICS) or head[start : start + len(magic)] == magic


@contextmanager
def _as_in(path: Path, unpacked: Unpacked) -> Iterator[None]:
    """Say errors of the unpacked files as of files in the archive; remove the files after any."""
    folder = str(unpacked.folder)
    try:
        yield
    except BaseException as error:
        unpacked.remove()  # whoever keeps the error would keep them
        if isinstance(error, Unreadable) and folder in str(error):
            raise _told(error, path, unpacked.folder) from error
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
            raise Unreadable(
                f"{path}: cannot be unpacked into {folder}: {error.strerror or error}.",
                "Make room in the folder of temporary files (TMPDIR sets another one), or unpack "
                "it yourself and name the folder of the scan."
                if full
                else _UNPACK,
            ) from error
        raise


def _told(error: Unreadable, path: Path, folder: Path) -> Unreadable:
    """The same of the archive."""
    remedy = error.remedy
    if str(folder) in remedy:  # a command, which would not find it
        remedy = f"Unpack the archive first. {remedy.replace(str(folder), 'FOLDER')}"
    return Unreadable(error.cause.replace(str(folder), str(path)), remedy)


def _named(series: Series, path: Path, folder: Path) -> Series:
    """What a series says of itself and of damaged files beside it, as of files in the archive."""
    from ctclip_client.readers.dicom.series import DicomSeries

    series = replace(series, left_out=series.left_out.replace(str(folder), str(path)))
    if isinstance(series, DicomSeries):
        damaged = tuple(
            (path / file.relative_to(folder), _told(error, path, folder))
            for file, error in series.damaged
        )
        series = replace(series, damaged=damaged)
    return series


def _inner(path: Path, folder: Path) -> tuple[Path, Format]:
    """What to read of an unpacked archive: the folder where DICOM is in it, or the only CT file."""
    from ctclip_client.readers.dicom.series import dicom_files
    from ctclip_client.readers.registry import FORMATS, format_of

    files = sorted(files_below(folder))
    if next(dicom_files(files, []), None) is not None:
        return folder, format_of(folder)
    suffixes = tuple(s for form in FORMATS if form.name != Archive.name for s in form.suffixes)
    scans = [file for file in files if file.name.lower().endswith(suffixes)]
    if len(files) == 1:  # whatever its name
        scans = files
    if len(scans) != 1:
        raise Unreadable(
            f"{path}: {len(scans) or 'no'} CT files in {len(files)} of the archive, expected DICOM "
            "files or one CT file.",
            _UNPACK,
        )
    form = format_of(scans[0])
    if form.name == Archive.name:
        raise Unreadable(f"{path}: an archive in an archive.", _UNPACK)
    return scans[0], form


def _unpack(path: Path, folder: Path) -> None:
    limit = min(max(path.stat().st_size * LARGEST_RATIO, _FREE_BYTES), LARGEST_BYTES)
    try:
        with path.open("rb") as file:
            packed_by_zip = file.read(4) in ZIP_MAGICS
        members = _zip_members(path) if packed_by_zip else _tar_members(path)
        for count, (name, source) in enumerate(members, 1):
            if count > MOST_MEMBERS:
                raise Unreadable(
                    f"{path}: more than {MOST_MEMBERS:,} files and folders in the archive.", _UNPACK
                )
            if source is None:  # a folder
                continue
            limit -= _write(source, _place(path, folder, name), limit, path)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # what damaged ones raise has no end
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(
            f"{path}: damaged or cut short archive ({type(error).__name__}).", COPY_AGAIN
        ) from error


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Names and contents; None for a folder."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise Unreadable(f"{path}: an encrypted archive.", _UNPACK)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unreadable(
                    f"{path}: compressed by method {info.compress_type} of zip, expected 0 or 8 "
                    "(deflate), as every program writes it.",
                    _UNPACK,
                )
            if info.external_attr >> 28 == 0o12:  # the kind of file on Unix: a link
                raise _refused(path, "a link")
            if info.is_dir():
                yield info.filename, None
            else:
                with archive.open(info) as source:
                    yield info.filename, source


def _tar_members(path: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Likewise."""
    with opened(path) as file:
        stream = _Headers(file, path)
        with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                stream.left_bytes = sys.maxsize
                source = archive.extractfile(info) if info.isreg() else None
                if source is None and not info.isdir():
                    raise _refused(path, "a link, a device or a pipe")
                yield info.name, source
                # What tarfile keeps of every member.
                archive.members = []
                archive.pax_headers.clear()
                stream.left_bytes = _LARGEST_HEADER_BYTES


class _Headers:
    """A tar file's bytes, of which only so many may be read at once for the header of a member:
    tarfile takes long names, and lists of a header's fields, into memory whole."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path
        self.left_bytes = _LARGEST_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """The next bytes. Raises: Unreadable."""
        chunk = self._file.read(size)
        self.left_bytes -= len(chunk)
        if self.left_bytes < 0:
            raise Unreadable(
                f"{self._path}: a header of more than {_LARGEST_HEADER_BYTES >> 20} MiB in the "
                "archive.",
                _UNPACK,
            )
        return chunk


def _place(path: Path, folder: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    if (
        not parts
        or ".." in PureWindowsPath(name).parts
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).anchor
    ):
        raise _refused(path, "a path that leads out of the archive")
    return folder.joinpath(*parts)


def _write(source: IO[bytes], target: Path, limit: int, path: Path) -> int:
    """Write one member; return its bytes."""
    if target.exists():
        raise Unreadable(f"{path}: two files of one name in the archive.", _UNPACK)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            written += len(chunk)
            if written > limit:
                raise Unreadable(
                    f"{path}: unpacks to more than {LARGEST_RATIO} times its size or "
                    f"{LARGEST_BYTES >> 30} GiB.",
                    "If it is a scan and no trap, unpack it yourself and name the folder of it.",
                )
            file.write(chunk)
    return written


def _refused(path: Path, what: str) -> Unreadable:
    return Unreadable(
        f"{path}: a file in the archive is {what}.",
        "Do not unpack it unless you know where it comes from; ask for the scan's files alone.",
    )
