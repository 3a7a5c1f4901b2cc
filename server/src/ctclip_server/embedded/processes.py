"""What the processes of a running Triton do: the ports it listens on, and its Python stubs."""

from __future__ import annotations

from collections.abc import Collection

import psutil


def listens_on(process_id: int, ports: Collection[int]) -> bool:
    """Whether that very process listens on all these TCP ports.

    An answer from a port would not tell: it may come from the process that took it.
    """
    try:
        found = psutil.Process(process_id).net_connections("tcp")
    except psutil.Error:  # it has just ended
        return False
    return set(ports) <= {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}


def dead_stubs(triton_pid: int) -> set[int]:
    """Process ids of Triton's children that have ended and that it has not taken notice of.

    Children are the stubs, one for each instance of a model that runs in Python. One that Triton
    ends itself is among them for a moment.
    """
    try:
        children = psutil.Process(triton_pid).children()
    except psutil.Error:
        return set()
    return {child.pid for child in children if _has_ended(child)}


def _has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:  # gone meanwhile: taken notice of
        return False
