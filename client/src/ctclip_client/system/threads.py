"""What several threads of a process share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock


class Shared:
    """A setting of the whole process while any thread needs it: the first that comes makes it, and
    the last that leaves takes it back.

    make: the setting, as a context.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = Lock()
        self._threads = 0
        self._restore = ExitStack()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, the setting is made."""
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                self._restore.enter_context(self._make())
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    self._restore.close()
