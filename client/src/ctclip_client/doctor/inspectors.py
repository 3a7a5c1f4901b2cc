"""Examinations that other distributions bring, and what examinations may be told.

A distribution adds one by an entry point of the group `ctclip.inspectors`: the point's name is the
kind of subject ("checkpoint", "repository"), and it names a module with `inspect`. For a kind that
this distribution examines too, its checks come after the ones made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ctclip_client.contract import PUBLISHED_GEOMETRY, Geometry
from ctclip_client.doctor.report import Check
from ctclip_client.errors import InvalidInput
from ctclip_client.system.distributions import INSPECTORS, how_to_install
from ctclip_client.system.progress import Stages

if TYPE_CHECKING:
    from ctclip_client.transport.connection import Connection

ENTRY_POINT_GROUP = "ctclip.inspectors"


@dataclass(frozen=True)
class DoctorOptions:
    """What the user said about the subject.

    geometry: the grid that a checkpoint was trained on. text_model: folder of its text model.
    reading: how to read a CT, the keyword arguments of `read_volume`. connection: to the server.
    repository: what it serves, whose self-check it is to answer.
    """

    geometry: Geometry = PUBLISHED_GEOMETRY
    text_model: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    connection: Connection | None = None
    repository: Path | None = None
    stages: Stages = field(default_factory=Stages)


class Inspector(Protocol):
    """What the module behind an entry point provides."""

    def inspect(self, path: Path, options: DoctorOptions) -> Iterator[Check]: ...


def inspector(kind: str) -> Inspector:
    """Load another distribution's examination of a kind of subject.

    Raises:
        InvalidInput: it is not installed or cannot be imported; the remedy names the distribution.
    """
    home = INSPECTORS[kind]
    points = list(entry_points(group=ENTRY_POINT_GROUP, name=kind))
    try:
        if points:
            return cast(Inspector, points[0].load())
        cause = "is not installed"
    except (ImportError, AttributeError) as error:
        cause = f"cannot be loaded: {error}"
    raise InvalidInput(f"Examining a {kind} needs {home}, which {cause}.", how_to_install(home))
