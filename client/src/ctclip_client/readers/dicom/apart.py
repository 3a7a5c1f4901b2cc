"""Compressed pixels, decoded in a process of their own.

The decoders are C, C++ and Rust, and damaged data makes some of them end the process, print or
hang. Whoever reads thousands of scans must not go down with one of them.

Where libjpeg (in GDCM) complains of its data, the image is refused: its voxels are wrong by then.
Damage on which a decoder says nothing cannot be found: DICOM has no checksum.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.readers.dicom.header import Image
from ctclip_client.readers.dicom.pixels import check_pixels, complains, decoded, dtype_of
from ctclip_client.readers.remedies import COPY_AGAIN
from ctclip_client.system.child import become_child

_LONGEST_FRAME_S = 60.0
_LONGEST_START_S = 60.0
_READY, _FRAME, _ERROR = b"R", b"F", b"E"
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    f"from {__name__} import main; main(int(sys.argv[2]))"
)


def frames(images: Sequence[Image]) -> Iterator[tuple[Image, int, NDArray[Any]]]:
    """Every frame of files in their order: the file, the frame's number from 0, and its pixels as
    `pixels.decoded` has them.

    Raises: Unreadable, OSError.
    """
    if all(check_pixels(image).nbytes is not None for image in images):
        for image in images:
            for index, frame in enumerate(decoded(image)):
                yield image, index, frame
        return
    # Of the working directory, which may be a disc with anything on it, nothing is imported.
    places = json.dumps([place for place in sys.path if place and isinstance(place, str)])
    command = [sys.executable, "-P", "-c", _PROGRAM, places, str(os.getpid())]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError as error:
        raise _not_started(images[0].path, f" ({error.strerror})") from error
    with process:
        try:
            yield from _received(process, images)
        finally:
            process.kill()


def _received(
    process: subprocess.Popen[bytes], images: Sequence[Image]
) -> Iterator[tuple[Image, int, NDArray[Any]]]:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
    with _watched(process, _LONGEST_START_S):
        if process.stdout.read(1) != _READY:
            process.stdin.close()
            raise _not_started(images[0].path)
    try:
        with process.stdin as pipe:
            pipe.write(pickle.dumps(tuple(images)))
    except BrokenPipeError:
        raise _ended(images[0].path) from None
    for image in images:
        pixels = check_pixels(image)
        for index in range(len(image.frames)):
            frame = np.empty((pixels.rows, pixels.columns), dtype_of([image]))
            with _watched(process, _LONGEST_FRAME_S):
                _receive(process.stdout, frame, image.path)
            yield image, index, frame


@contextmanager
def _watched(process: subprocess.Popen[bytes], longest_s: float) -> Iterator[None]:
    watch = Timer(longest_s, process.kill)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _receive(pipe: Any, frame: NDArray[Any], path: Path) -> None:
    kind = pipe.read(1)
    if kind == _ERROR:
        try:
            cause, remedy = json.loads(pipe.readline())
        except ValueError:
            raise _ended(path) from None
        raise Unreadable(cause, remedy)
    if kind != _FRAME or pipe.readinto(frame.reshape(-1).view(np.uint8)) != frame.nbytes:
        raise _ended(path)


def _ended(path: Path) -> Unreadable:
    return Unreadable(f"{path}: damaged pixel data, on which its decoder gave up.", COPY_AGAIN)


def _not_started(path: Path, why: str = "") -> Unreadable:
    return Unreadable(
        f"{path}: its pixels are compressed, and the process that decodes them could not be "
        f"started{why}.",
        "Look whether this machine has memory and processes left, and whether "
        f"\"{sys.executable} -c 'import pydicom.pixels'\" runs.",
    )


def main(parent: int) -> None:
    """What the process does: images in, frames out. It ends with its parent."""
    become_child(parent, getattr(signal, "SIGKILL", signal.SIGTERM))
    import pydicom.pixels  # noqa: F401 (before it says that it is ready)

    source = sys.stdin.buffer
    with (
        os.fdopen(os.dup(1), "wb") as target,
        open(os.devnull, "wb") as nowhere,  # noqa: PTH123
        tempfile.TemporaryFile() as said,
    ):
        target.write(_READY)
        target.flush()
        os.dup2(nowhere.fileno(), 1)  # what decoders print goes elsewhere
        os.dup2(said.fileno(), 2)
        _decode(source, target)


def _decode(source: BinaryIO, target: BinaryIO) -> None:
    try:
        for image in pickle.load(source):  # noqa: S301 (of our own parent)
            before = os.fstat(2).st_size
            for frame in decoded(image):
                if complains(image) and os.fstat(2).st_size > before:
                    raise Unreadable(
                        f"{image.path}: damaged pixel data, of which its decoder complained.",
                        COPY_AGAIN,
                    )
                target.write(_FRAME)
                target.write(np.ascontiguousarray(frame).data)
                target.flush()  # so that the next file is the one on which it may end
    except Unreadable as error:
        _send(target, error.cause, error.remedy)
    except (OSError, MemoryError) as error:
        _send(target, f"{error}.", "Look at the file and at the memory.")


def _send(target: BinaryIO, cause: str, remedy: str) -> None:
    target.write(_ERROR + json.dumps([cause, remedy]).encode() + b"\n")
