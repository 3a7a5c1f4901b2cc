"""Every error a caller may see, and the exit codes of the command line.

CTClipError                 1  a check failed (the root; also raised for it directly)
├── InvalidInput            2  an argument, a tensor or a header is wrong
│   └── Unreadable          2  a file cannot be read as what it should be
└── ServiceError            4  something between this process and the answer
    ├── Unavailable         4  nobody answers, or the server's queue is full
    ├── DeadlineExceeded    4  no answer within the time given
    ├── NotReady            4  the server answers, the model does not
    └── ServerError         4  the server failed on a good request
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
"""Some scans of many, or some requests of a measurement."""
EXIT_UNAVAILABLE = 4
EXIT_INTERRUPTED = 130


class CTClipError(Exception):
    """Root of the tree. `cause` says what is wrong (field, got, expected), `remedy` what to do."""

    exit_code = EXIT_CHECK_FAILED

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause} {remedy}".strip())
        self.cause = cause
        self.remedy = remedy


class InvalidInput(CTClipError):
    """An argument, a tensor or a header is wrong; the same call will fail again."""

    exit_code = EXIT_USAGE


class Unreadable(InvalidInput):
    """A file is missing, damaged, or not what its name promises."""


class ServiceError(CTClipError):
    """The request was good as far as this side can tell; the answer did not come."""

    exit_code = EXIT_UNAVAILABLE


class Unavailable(ServiceError):
    """No server at that address, one that takes no more work, or one that is changing its release;
    trying again later may help."""


class DeadlineExceeded(ServiceError):
    """The server did not answer in time; it may still be working on the request."""


class NotReady(ServiceError):
    """The server runs, but the model is unknown to it or not loaded yet."""


class ServerError(ServiceError):
    """The server failed on its own side."""
