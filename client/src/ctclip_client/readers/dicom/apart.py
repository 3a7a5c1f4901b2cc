"""Compressed pixels, decoded in a process of their own.

The decoders are C, C++ and Rust, and damaged data makes some of them end the process, print or
hang. Whoever reads thousands of scans must not go down with one of them.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Timer
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.readers.dicom.header import Image
from ctclip_client.readers.dicom.pixels import check_pixels, decoded, dtype_of
from ctclip_client.readers.remedies import COPY_AGAIN

_LONGEST_FRAME_S = 60.0
_FRAME, _ERROR = b"F", b"E"


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
    command = [sys.executable, "-c", f"from {__name__} import main; main()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield from _received(process, images)
        finally:
            process.kill()


def _received(
    process: subprocess.Popen[bytes], images: Sequence[Image]
) -> Iterator[tuple[Image, int, NDArray[Any]]]:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
    try:
        with process.stdin as pipe:
            pipe.write(pickle.dumps(tuple(images)))
    except BrokenPipeError:
        raise _ended(images[0].path) from None
    for image in images:
        pixels = check_pixels(image)
        for index in range(len(image.frames)):
            frame = np.empty((pixels.rows, pixels.columns), dtype_of([image]))
            watch = Timer(_LONGEST_FRAME_S, process.kill)
            watch.daemon = True
            watch.start()
            try:
                _receive(process.stdout, frame, image.path)
            finally:
                watch.cancel()
            yield image, index, frame


def _receive(pipe: Any, frame: NDArray[Any], path: Path) -> None:
    kind = pipe.read(1)
    if kind == _ERROR:
        cause, remedy = pickle.load(pipe)  # noqa: S301 (of our own process)
        raise Unreadable(cause, remedy)
    if kind != _FRAME or pipe.readinto(frame.reshape(-1).view(np.uint8)) != frame.nbytes:
        raise _ended(path)


def _ended(path: Path) -> Unreadable:
    return Unreadable(f"{path}: damaged pixel data, on which its decoder gave up.", COPY_AGAIN)


def main() -> None:
    """What the process does: images in, frames out."""
    source = sys.stdin.buffer
    # What decoders print goes elsewhere.
    with os.fdopen(os.dup(1), "wb") as target, open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        _decode(source, target)


def _decode(source: BinaryIO, target: BinaryIO) -> None:
    try:
        for image in pickle.load(source):  # noqa: S301 (of our own process)
            for frame in decoded(image):
                target.write(_FRAME)
                target.write(np.ascontiguousarray(frame).data)
                target.flush()  # so that the next file is the one on which it may end
    except Unreadable as error:
        target.write(_ERROR + pickle.dumps((error.cause, error.remedy)))
    except (OSError, MemoryError) as error:
        target.write(_ERROR + pickle.dumps((f"{error}.", "Look at the file and at the memory.")))
