"""The one place that turns gRPC's errors into the client's: by status code, never by text, which at
most chooses a remedy.

UNAVAILABLE is what Triton answers for a model it does not have, for a full queue, and what gRPC
says when nobody is there. Which of the three it is, the server is asked.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

from ctclip_client.errors import (
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    ServerError,
    Unavailable,
)
from ctclip_client.transport.retries import retried
from ctclip_client.transport.steps import Deadline, Flow, Rpc, Session
from ctclip_client.transport.wire import infer_request

PROBE_TIMEOUT_S = 5.0
"""For the questions asked after a failure; they must not take as long as a scan."""

NOBODY_REMEDY = (
    "Start one (ctclip serve --repository DIR), or give the host:port of its gRPC service (usually "
    "8001). One with TLS needs --tls-ca (in Python: tls=Tls(…)); one that asks for the client's "
    "certificate needs --tls-cert and --tls-key, too."
)
NO_ROOM = os.strerror(errno.ENOSPC)
NO_ROOM_REMEDY = (
    "Where the server speaks of shared memory, enlarge its /dev/shm (docker: --shm-size=2g; "
    "Compose: CTCLIP_SHM_SIZE); otherwise make room on its disk."
)
"""For the kernel's words, whoever hands them on."""
_LONGEST_DETAIL = 600
_KEY_REMEDY = "Give the headers (or TLS key) that the server asks for."
_REMEDIES = {
    grpc.StatusCode.UNIMPLEMENTED: "Is this the gRPC service of a Triton? Its port is usually 8001 "
    "(8000 is HTTP, 8002 metrics).",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "Something between here and Triton limits the size of "
    "messages, or the server is out of memory: raise the proxy's limit, or ask who runs it.",
    grpc.StatusCode.UNAUTHENTICATED: _KEY_REMEDY,
    grpc.StatusCode.PERMISSION_DENIED: _KEY_REMEDY,
}


def translated(
    session: Session, error: grpc.RpcError, model: str, request_id: str = ""
) -> Flow[CTClipError]:
    """Return the client's error for a failed inference; may ask the server how it is."""
    code = error.code()
    if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
        return (yield from _absent(session, model, said(error), request_id))
    why = named(said(error), request_id)
    where = session.endpoint.address
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InvalidInput(
            f"{where}: {model} refused the request: {why}",
            "Correct the named field; the same request will be refused again.",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(
            f"{where}: no answer from {model} within "
            f"{named(f'{session.timeout_s:g} s', request_id)}.",
            "Give it more time (timeout_s, --timeout-s), or look whether the server is "
            "overloaded; it may still be working on this request.",
        )
    remedy = _REMEDIES.get(code, "Look into the server's log; ctclip doctor checks its repository.")
    if NO_ROOM in why:
        remedy = NO_ROOM_REMEDY
    return ServerError(f"{where}: {model} failed ({code.name}): {why}", remedy)


def _absent(session: Session, model: str, why: str, request_id: str) -> Flow[CTClipError]:
    where = session.endpoint.address
    try:
        yield Rpc("ServerLive", b"", PROBE_TIMEOUT_S)
    except grpc.RpcError:
        return Unavailable(f"{where}: no Triton answers there ({why}).", NOBODY_REMEDY)
    session.answered = True
    if not (yield from is_ready(session, model)):
        return NotReady(
            f"{where}: the server runs, but its model {model} is unknown or not loaded ({why}).",
            "Serve a repository made by ctclip export, and wait until the server is ready.",
        )
    return Unavailable(
        f"{where}: {named(f'{model} takes no request at the moment', request_id)}: {why}.",
        "Its queue is full, or access is restricted: try again later, or give the headers that "
        "the server asks for.",
    )


def is_ready(session: Session, model: str) -> Flow[bool]:
    """Ask whether a model can be used. False also where the question is not answered."""
    timeout_s = min(PROBE_TIMEOUT_S, session.timeout_s)
    request = service_pb2.ModelReadyRequest(name=model).SerializeToString()
    try:
        answer = yield Rpc("ModelReady", request, timeout_s)
    except grpc.RpcError:
        return False
    session.answered = True
    return bool(service_pb2.ModelReadyResponse.FromString(answer).ready)


def check_ready(session: Session, model: str) -> Flow[None]:
    """Find out, without a scan, whether a model can be used.

    Raises:
        CTClipError: what an inference would raise.
    """
    yield from retried(
        session, Deadline(session.timeout_s), lambda: _asked_whether_ready(session, model)
    )


def _asked_whether_ready(session: Session, model: str) -> Flow[Unavailable | None]:
    if (yield from is_ready(session, model)):
        return None
    # Questions about health may be for others only (Triton's restricted protocols), so the absence
    # of a good answer proves nothing. A request without inputs travels like one with a scan, and is
    # refused as invalid by a server that would take it.
    brief = replace(session, timeout_s=min(PROBE_TIMEOUT_S, session.timeout_s))
    try:
        yield Rpc("ModelInfer", infer_request(model, (), ()), brief.timeout_s)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            try:
                raise (yield from translated(brief, error, model)) from error
            except Unavailable as failure:
                return failure
    return None


def named(words: str, request_id: str) -> str:
    """Add the id under which the server's log has the request."""
    return f"{words} (request {request_id})" if request_id else words


def said(error: grpc.RpcError) -> str:
    """Return the server's own words on one line. Shown, never interpreted."""
    return " ".join((error.details() or "no reason given").split())[:_LONGEST_DETAIL]
