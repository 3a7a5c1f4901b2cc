"""Let a release answer its self-check on the machine that is about to serve it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ctclip_client.contract import CHECK, CLASSFINE_ENSEMBLES, ENSEMBLES, VISION, ZERO_SHOT
from ctclip_client.errors import (
    CTClipError,
    DeadlineExceeded,
    NotReady,
    ServerError,
    Unavailable,
    Unreadable,
)
from ctclip_client.release.repository import config_path, pins, read_config
from ctclip_client.release.self_check import FILE, SelfCheck, precision_of_config, read_self_check
from ctclip_client.system.processor import processor
from ctclip_client.transport.connection import Connection
from ctclip_server.embedded.server import EmbeddedTriton
from ctclip_server.releases.control import Control

NONE_THERE = (
    "WARNING: this release carries no self-check (an older ctclip exported it): nothing has shown "
    "that this machine computes what the checkpoint does. Export it again."
)
_OTHER_MODELS = "WARNING: no self-check: this repository has none of CT-CLIP's ensembles."
STEPS = tuple(step.model.name for step in ZERO_SHOT.steps)
_RETRY_S = 0.5
_LOSS_IS_KNOWN_S = 3.0
"""By then it has been noticed that Triton or the process of a model has ended."""


class SelfCheckError(CTClipError):
    """A release does not answer here as the reference does. Exit code 1: a check failed."""


def load_self_check(repository: Path, version: int) -> SelfCheck | None:
    """The self-check of a version; None where it has none.

    Raises: Unreadable.
    """
    path = repository / CHECK.name / str(version) / FILE
    try:
        return read_self_check(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise Unreadable(
            f"self-check: {path.parent}: {error}.", "Export the release again."
        ) from error


def check_is_of(check: SelfCheck | None, release: str) -> None:
    """Raises: SelfCheckError where it was made for another release."""
    if check is not None and check.release != release:
        raise SelfCheckError(
            f"self-check: it is of release {check.release}, beside files of {release}.",
            "Export the release again.",
        )


def check_embedded(server: EmbeddedTriton, timeout_s: float) -> Iterator[str]:
    """Ask a started server for every version that its ensembles use; yield what to say of it.

    Usually that is one, and `ctclip_zero_shot` is asked. After an interrupted promotion other
    ensembles may use another one: then its steps are.

    Raises:
        SelfCheckError: it answers something else than the reference, or an error.
        Unreadable: the self-check is damaged.
        ServiceError: no answer within `timeout_s`, or Triton ended meanwhile.
    """
    used = {
        ensemble.name: pins(read_config(config_path(folder, server.config_name)))
        for ensemble in (*ENSEMBLES, *CLASSFINE_ENSEMBLES)
        if (folder := server.repository / ensemble.name).is_dir()
    }
    for name, versions in used.items():
        if len(versions) != 1 or min(versions) < 1:
            raise SelfCheckError(
                f"self-check: '{name}' pins its steps to versions {sorted(versions)}, expected "
                "one.",
                "Export the repository again.",
            )
    if not used:
        yield _OTHER_MODELS
        return
    absent = [name for name in STEPS if not (server.repository / name).is_dir()]
    if absent:
        yield not_asked("the repository", absent)
        return
    whole = used.get(ZERO_SHOT.name, frozenset())
    with Control(Connection(server.grpc_url, timeout_s), proxy=False) as control:
        for version in sorted(frozenset().union(*used.values())):
            check = load_self_check(server.repository, version)
            if check is None:
                yield NONE_THERE
            else:
                asked = None if version in whole else version
                ask = partial(_ask, control, check, asked, processor())
                # It raises where an end of Triton's is the reason.
                yield patiently(ask, partial(server.wait, _LOSS_IS_KNOWN_S), timeout_s)


def check_version(control: Control, check: SelfCheck, version: int, timeout_s: float) -> str:
    """Ask the steps of a loaded version of a server, one after another, before it serves.

    Raises:
        SelfCheckError: they answer something else than the reference, or an error.
        ServiceError: there is no answer.
    """
    ask = partial(_ask, control, check, version, f"a CPU of {control.url}")
    return patiently(ask, partial(time.sleep, _RETRY_S), timeout_s)


def patiently(ask: Callable[[], str], pause: Callable[[], None], timeout_s: float) -> str:
    """Ask until there is an answer: other callers may fill the queue meanwhile."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except CTClipError as error:
            pause()
            if not isinstance(error, Unavailable | NotReady) or time.monotonic() > deadline:
                raise


def not_asked(who: str, absent: Iterable[str]) -> str:
    """What to say where `ctclip_zero_shot` cannot be computed."""
    return f"WARNING: self-check NOT RUN: {who} lacks {', '.join(sorted(absent))}."


def _ask(control: Control, check: SelfCheck, version: int | None, cpu: str) -> str:
    """version: whose steps are asked; None: `ctclip_zero_shot`."""
    config = control.config(VISION.name)
    on_gpu = any(group.kind == group.KIND_GPU for group in config.instance_group)
    device = f"a GPU of {control.url}" if on_gpu else cpu
    where = f"{VISION.name} by {config.backend} on {device}"
    try:
        if version is None:
            answer: Mapping[str, NDArray[Any]] = control.infer(ZERO_SHOT.name, None, check.inputs())
        else:
            answer = _through_steps(control, check, version)
    except DeadlineExceeded as error:
        raise DeadlineExceeded(
            f"self-check: {error.cause}",
            "Allow more time: --startup-timeout-s of serve, --timeout-s of promote.",
        ) from error
    except ServerError as error:
        raise _failed(error.cause, where) from error
    precision = precision_of_config(check.precision, config)
    found = check.judge(answer, precision)
    if found.problems:
        raise _failed("; ".join(found.problems), f"{where}, by the bounds of {precision}")
    return f"self-check passed in {precision}, {where}: {found}"


def _through_steps(control: Control, check: SelfCheck, version: int) -> dict[str, NDArray[Any]]:
    """What `ctclip_zero_shot` would answer if it were of this version."""
    tensors = check.inputs()
    for step in ZERO_SHOT.steps:
        inputs = {
            tensor.name: tensors[step.inputs.get(tensor.name, tensor.name)]
            for tensor in step.model.inputs
        }
        outputs = control.infer(step.model.name, version, inputs)
        tensors |= {step.outputs.get(name, name): array for name, array in outputs.items()}
    return tensors


def _failed(problem: str, where: str) -> SelfCheckError:
    return SelfCheckError(
        f"self-check: {problem.rstrip('.')} ({where}).",
        "The release does not compute here what its checkpoint does. Serve it by another config or "
        "on another machine, or export it in another precision; ctclip parity tells more.",
    )
