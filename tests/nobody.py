"""A standard output whose reader has gone, inside this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def nobody_reads() -> Iterator[None]:
    reader, end = os.pipe()
    os.close(reader)
    with (
        os.fdopen(end, "w") as stream,
        mock.patch.object(sys, "stdout", stream),
        mock.patch.object(sys, "__stdout__", stream),
    ):
        yield
        sys.stdout.close()
