"""Put a finished repository into place: all of it, or none."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ctclip_client.errors import InvalidInput
from ctclip_client.system.files import locked

CONFIG = "config.pbtxt"


def check_target(out: Path) -> None:
    """Refuse a target that is not a folder that model folders may be put into.

    Raises: InvalidInput.
    """
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"--out: {out} is a file.", "Name a folder; it need not exist yet.")
    if not out.exists():
        return
    strangers = sorted(
        entry.name
        for entry in out.iterdir()
        if not entry.name.startswith(".") and not (entry / CONFIG).is_file()
    )
    if strangers:
        raise InvalidInput(
            f"--out: {out} holds '{strangers[0]}', which is not a model with a {CONFIG}.",
            "Name a new or empty folder, or an existing model repository. Triton takes every "
            "folder in a repository for a model.",
        )


@contextmanager
def staged(out: Path, owned: Collection[str] = ()) -> Iterator[Path]:
    """A folder to build the repository in; placed into `out` when the block ends without an error.

    It lies beside `out`, so that placing is renaming. Models of the same name in `out` are replaced
    whole; those that are `owned` and were not built again are removed: they are of another release.
    Others stay. If anything fails, `out` is as it was.

    Raises: InvalidInput if nothing can be written there, or the disk is full.
    """
    out = out.resolve()
    work = _work_folder(out)
    try:
        with _alive(work):
            staging = work / "new"
            staging.mkdir()
            yield staging
            _place(staging, out, work / "old", owned)
    except OSError as error:
        raise InvalidInput(
            f"--out: writing {out} failed ({error.strerror or error}).",
            "Make room on that disk, or name a folder on another one, and export again.",
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _work_folder(out: Path) -> Path:
    """An empty folder from which others can be renamed into `out`: beside it, or inside where
    another disk is mounted at `out`."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = _make_work(out.parent, out.name)
        if not out.exists() or _can_rename(work, out):
            return work
        work.rmdir()
        return _make_work(out, out.name)
    except OSError as error:
        raise InvalidInput(
            f"--out: cannot write beside {out} ({error.strerror}).",
            "Name a folder on a disk that you may write to.",
        ) from error


def _make_work(folder: Path, name: str) -> Path:
    prefix = f".{name}.staging-"
    for abandoned in folder.glob(f"{prefix}*"):  # by a killed export: gigabytes each time
        with contextlib.suppress(OSError), locked(abandoned, wait=False):
            shutil.rmtree(abandoned, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=prefix, dir=folder))


def _can_rename(work: Path, out: Path) -> bool:
    probe = Path(tempfile.mkdtemp(dir=work))
    try:
        probe.rename(out / work.name).rmdir()
    except OSError as error:
        probe.rmdir()
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


@contextmanager
def _alive(work: Path) -> Iterator[None]:
    """Mark the folder as one whose export is alive; the mark goes with the process."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without locks (some NFS) leftovers stay, no more
            stack.enter_context(locked(work, wait=False))
        yield


def _place(staging: Path, out: Path, old: Path, owned: Collection[str]) -> None:
    if not out.exists():
        staging.rename(out)
        return
    built = {model.name for model in staging.iterdir()}

    def put_back() -> None:
        for name in built:
            if not (staging / name).exists():
                (out / name).rename(staging / name)
        for model in old.iterdir():
            model.rename(out / model.name)

    old.mkdir()
    try:
        for name in sorted({*built, *owned}):
            if (out / name).exists():
                (out / name).rename(old / name)
            if name in built:
                (staging / name).rename(out / name)
    except BaseException:
        # An interrupt, too, must not leave half of one release and half of another, nor must the
        # next one, which comes while all is put back.
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                put_back()
                break
        raise
