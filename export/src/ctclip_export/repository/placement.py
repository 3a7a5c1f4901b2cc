"""Put a finished repository into place: all of it, or none."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctclip_client.errors import InvalidInput

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
def staged(out: Path) -> Iterator[Path]:
    """A folder to build the repository in; placed into `out` when the block ends without an error.

    It lies beside `out`, so that placing is renaming. Models of the same name in `out` are replaced
    whole; others stay. If anything fails, `out` is as it was.

    Raises: InvalidInput if the folder above `out` cannot be written.
    """
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}.staging-", dir=out.parent))
    except OSError as error:
        raise InvalidInput(
            f"--out: cannot write beside {out} ({error.strerror}).",
            "Name a folder on a disk that you may write to.",
        ) from error
    try:
        staging = work / "new"
        staging.mkdir()
        yield staging
        _place(staging, out, work / "old")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _place(staging: Path, out: Path, old: Path) -> None:
    if not out.exists():
        staging.rename(out)
        return
    old.mkdir()
    done: list[str] = []
    try:
        for model in sorted(staging.iterdir()):
            done.append(model.name)
            if (out / model.name).exists():
                (out / model.name).rename(old / model.name)
            model.rename(out / model.name)
    except (
        BaseException
    ):  # an interrupt, too, must not leave half of one release and half of another
        for name in done:
            if (out / name).exists() and not (staging / name).exists():
                (out / name).rename(staging / name)
            if (old / name).exists():
                (old / name).rename(out / name)
        raise
