"""`ctclip serve`: the embedded Triton in the foreground, for one machine."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ctclip_client.cli.flag_values import seconds
from ctclip_client.errors import EXIT_OK, ServerError
from ctclip_client.system.signals import Terminated, termination_interrupts

if TYPE_CHECKING:
    from ctclip_server.embedded.server import EmbeddedTriton

SUMMARY = "Serve a model repository with the embedded Triton on this machine."


SHARED_MEMORY_BYTES = 1_000_000_000
"""One scan on its way: 0.17 GB of stored voxels, 0.22 GB of float voxels in and out of steps."""


LOSSES = 3
"""Triton is not started again when it is lost that many times in a row, each time soon."""
SOON_S = 30.0
"""Seconds from being ready."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--repository", type=Path, required=True, help="model repository")
    parser.add_argument(
        "--config-name", metavar="NAME", help="take MODEL/configs/NAME.pbtxt where it exists"
    )
    parser.add_argument(
        "--model-control",
        choices=("none", "explicit"),
        default="none",
        help="explicit: releases may be changed while it serves (ctclip promote, rollback)",
    )
    for name, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        parser.add_argument(
            f"--{name}-port", type=int, default=port, metavar="PORT", help="0 is a free port"
        )
    parser.add_argument("--host", default="127.0.0.1", help="address or name to listen on")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep Triton's log in this file")
    parser.add_argument(
        "--startup-timeout-s",
        type=seconds,
        default=300.0,
        metavar="S",
        help="until models are ready, and then for the answer to the release's self-check",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM (0) or Ctrl-C (130).

    Raises:
        CTClipError: it cannot start, the release fails its self-check, or Triton ended on its own.
            Should it crash, or should the Python process of a model die, which Triton 2.51 never
            repairs, it is started again; but not for ever, see `LOSSES`.
    """
    # Here and not later: a signal that arrives inside these imports may surface as their failure.
    import tritonclient.grpc  # noqa: F401

    import ctclip_server.self_check  # noqa: F401
    from ctclip_server.embedded.server import EmbeddedTriton

    server = EmbeddedTriton(
        args.repository,
        config_name=args.config_name,
        host=args.host,
        grpc_port=args.grpc_port,
        http_port=args.http_port,
        metrics_port=args.metrics_port,
        startup_timeout_s=args.startup_timeout_s,
        model_control=args.model_control,
        log=args.log,
    )
    with termination_interrupts():
        try:
            _say(f"starting Triton with {args.repository} ...")
            _warn_of_small_shared_memory()
            _serve(server)
        except Terminated:
            return EXIT_OK


def _serve(server: EmbeddedTriton) -> NoReturn:
    from ctclip_server.embedded.server import RestartableError
    from ctclip_server.self_check import check_embedded

    losses = 0
    announced = False
    while True:
        began = time.monotonic()
        ready: float | None = None
        try:
            with server:
                _say(f"every model is ready after {time.monotonic() - began:.1f} s")
                for told in check_embedded(server, server.startup_timeout_s):
                    _say(told)
                ready = time.monotonic()
                if not announced:
                    print(
                        f"ready grpc={server.grpc_url} http={server.http_url} "
                        f"metrics={server.metrics_url}",
                        flush=True,
                    )
                announced = True
                _wait(server)
        except RestartableError as lost:
            soon = ready is None or time.monotonic() - ready < SOON_S
            losses = losses + 1 if soon else 0
            if losses == LOSSES:
                raise ServerError(
                    f"{lost.cause} It is not started again: that happened {LOSSES} times in a row "
                    f"within {SOON_S:g} s of being ready.",
                    lost.remedy,
                ) from lost
            _say(f"WARNING: {lost.cause} Starting Triton again, at the same ports ...")


def _wait(server: EmbeddedTriton) -> None:
    try:
        server.wait()
    except KeyboardInterrupt:
        _say("stopping; requests in flight may finish, a second signal ends them")
        raise


def _warn_of_small_shared_memory() -> None:
    """Triton hands tensors to its Python stubs through /dev/shm; docker gives it 64 MB."""
    try:
        state = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return
    free = state.f_bavail * state.f_frsize
    if free < SHARED_MEMORY_BYTES:
        _say(
            f"WARNING: /dev/shm has {free / 1e6:.0f} MB free; a chest CT takes about 1 GB of it. "
            "Enlarge it: mount -o remount,size=2g /dev/shm (a container: docker run --shm-size=2g)."
        )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
