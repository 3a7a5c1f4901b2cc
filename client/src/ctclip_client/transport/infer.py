"""One inference: through shared memory where that is possible, otherwise in the message."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from ctclip_client.contract import VOLUME, Ensemble, Model
from ctclip_client.errors import CTClipError, ServerError, ServiceError, Unavailable
from ctclip_client.results import Transport
from ctclip_client.transport.failures import PROBE_TIMEOUT_S, named, said, translated
from ctclip_client.transport.retries import retried
from ctclip_client.transport.shared_memory import Region, bequeath, sweep
from ctclip_client.transport.steps import Deadline, Flow, Pause, Rpc, Session, Work
from ctclip_client.transport.wire import Input, infer_request, infer_response

RELEASE_PATIENCE_S = 5.0
_RELEASE_INTERVAL_S = 0.2
_LEAST_RELEASE_S = 0.5
"""For one attempt, beyond the deadline. What it does not reach is asked for by the next call."""
_UNKNOWN = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""What a call may end with that the server has carried out all the same."""


@dataclass(frozen=True, eq=False)
class Call:
    """model: what to run. inputs: its tensors; VOLUME may go by shared memory.

    sizes: free axes of the outputs that the inputs have fixed. request_id: by which the server's
    log names it; repeated attempts have the same.
    """

    model: Model | Ensemble
    inputs: tuple[Input, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    request_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])


@dataclass(frozen=True, eq=False)
class Answer:
    """Arrays by name, milliseconds spent on preparing the request and on waiting for the answer."""

    arrays: Mapping[str, NDArray[np.generic]]
    pack_ms: float
    infer_ms: float
    transport: Transport
    request_id: str


def infer(session: Session, call: Call, deadline: Deadline) -> Flow[Answer]:
    """Run one model; again where it is safe, see `retries`.

    Raises:
        CTClipError: one of the classes that `failures.translated` tells apart.
    """
    return (yield from retried(session, deadline, lambda: _attempt(session, call, deadline)))


def _attempt(session: Session, call: Call, deadline: Deadline) -> Flow[Answer | Unavailable]:
    try:
        try:
            return (yield from _once(session, call, deadline))
        except grpc.RpcError as error:
            raise (
                yield from translated(session, error, call.model.name, call.request_id)
            ) from error
    except Unavailable as error:
        return error


def _once(session: Session, call: Call, deadline: Deadline) -> Flow[Answer]:
    volume = next((item for item in call.inputs if item.tensor == VOLUME), None)
    if volume is None or not session.tries_shared_memory:
        return (yield from _in_message(session, call, call.inputs, deadline))
    answer = yield from _through_shared_memory(session, call, volume, deadline)
    if answer is None:
        answer = yield from _in_message(session, call, call.inputs, deadline)
        session.refused = True  # only now: it works, and not with shared memory
    return answer


def _in_message(
    session: Session, call: Call, inputs: Sequence[Input], deadline: Deadline
) -> Flow[Answer]:
    started = time.perf_counter()
    model, request_id = call.model, call.request_id
    payload = yield Work(lambda: infer_request(model.name, inputs, model.outputs, request_id))
    packed = time.perf_counter()
    response = yield Rpc("ModelInfer", payload, deadline.left_s())
    answered = time.perf_counter()
    session.answered = True
    try:
        arrays = infer_response(response, model.outputs, call.sizes)
    except ServerError as error:
        cause = named(error.cause.removesuffix("."), request_id)
        raise ServerError(f"{cause}.", error.remedy) from error
    return Answer(
        arrays=arrays,
        pack_ms=(packed - started) * 1000,
        infer_ms=(answered - packed) * 1000,
        transport=Transport("grpc", sum(item.array.nbytes for item in inputs)),
        request_id=request_id,
    )


def _through_shared_memory(
    session: Session, call: Call, volume: Input, deadline: Deadline
) -> Flow[Answer | None]:
    """None: this way is not open, and the voxels have not been sent."""
    started = time.perf_counter()
    if not session.swept:
        session.swept = True
        yield Work(lambda: sweep(session.unreleased.add))
    yield from release(session, 0)
    region = Region(volume.array.nbytes)
    session.in_use.add(region)  # before there is anything that an interruption could leave behind
    try:
        if not (yield from _is_shared(session, region, deadline)):
            return None
        yield Work(lambda: region.write(volume.array))
        copied = time.perf_counter()
        inputs = [replace(i, region=region) if i is volume else i for i in call.inputs]
        answer = yield from _in_message(session, call, inputs, deadline)
    finally:
        try:
            session.give_up(region)
        except BaseException:
            session.give_up(region)
            raise
        yield from _released(session, region, deadline)
    pack_ms = (copied - started) * 1000 + answer.pack_ms
    return replace(answer, pack_ms=pack_ms, transport=Transport("shared_memory", region.nbytes))


def _is_shared(session: Session, region: Region, deadline: Deadline) -> Flow[bool]:
    """Make the region and let the server map it. False where one of the two is not possible.

    Raises: ServiceError, if shared memory was asked for and is not possible.
    """
    must = session.shared_memory is True
    try:
        yield Work(region.create)
    except OSError as error:
        if must:
            raise ServiceError(
                f"shared memory: {error.strerror or error} ({region.nbytes:,} bytes).",
                "Enlarge /dev/shm (shm_size of a container), or leave shared_memory at 'auto'.",
            ) from error
        return False
    request = service_pb2.SystemSharedMemoryRegisterRequest(
        name=region.name, key=region.key, offset=0, byte_size=region.nbytes
    ).SerializeToString()
    timeout_s = min(PROBE_TIMEOUT_S, deadline.left_s())
    region.offered = True
    try:
        yield Rpc("SystemSharedMemoryRegister", request, timeout_s)
    except grpc.RpcError as error:
        # Unless nobody knows what became of it, the server does not hold it.
        region.offered = error.code() in _UNKNOWN
        if must:
            raise _cannot_share(session, error) from error
        return False
    except CTClipError:  # the client was closed: nothing was sent, or `close` asks the server
        region.offered = False
        raise
    return True


def _released(session: Session, region: Region, deadline: Deadline) -> Flow[None]:
    if isinstance(sys.exception(), GeneratorExit):
        return  # the procedure was dropped: nobody takes its steps any more
    region.close()
    if region.offered:
        timeout_s = min(PROBE_TIMEOUT_S, max(deadline.left_s(), _LEAST_RELEASE_S))
        yield from _unregister(session, region.name, timeout_s)


def release(session: Session, patience_s: float) -> Flow[None]:
    """Let the server forget the regions that it was still reading when they were given up.

    A region that it never lets go of costs it that much memory until it is restarted.

    patience_s: for how long it is asked again; then the rest is left to the next client. 0: once.
    """
    deadline = Deadline(patience_s or PROBE_TIMEOUT_S)
    while session.unreleased:
        for name in tuple(session.unreleased):
            yield from _unregister(session, name, deadline.left_s(), last=patience_s > 0)
        if not session.unreleased or not patience_s:
            return
        if deadline.left_s() < _RELEASE_INTERVAL_S:
            bequeath(tuple(session.unreleased))
            return
        yield Pause(_RELEASE_INTERVAL_S)


def _unregister(session: Session, name: str, timeout_s: float, *, last: bool = False) -> Flow[None]:
    """Ask once. A refusal changes nothing for the caller, whose answer or error is known by now.

    last: nobody will ask again, where nobody answers.
    """
    request = service_pb2.SystemSharedMemoryUnregisterRequest(name=name).SerializeToString()
    try:
        yield Rpc("SystemSharedMemoryUnregister", request, timeout_s)
    except grpc.RpcError as error:
        # A server that is gone holds nothing; but it may be the connection alone that is gone.
        if not (last and error.code() is grpc.StatusCode.UNAVAILABLE):
            return
    except CTClipError:
        return  # the client was closed meanwhile: `close` asks
    session.unreleased.discard(name)


def _cannot_share(session: Session, error: grpc.RpcError) -> ServiceError:
    kind = Unavailable if error.code() is grpc.StatusCode.UNAVAILABLE else ServiceError
    return kind(
        f"{session.endpoint.address}: shared memory was not accepted "
        f"({error.code().name}): {said(error)}",
        "It needs a server on this machine that runs as the same user and allows it "
        "(--allow-client-shm=true); shared_memory='auto' sends the voxels over gRPC instead.",
    )
