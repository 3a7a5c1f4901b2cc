"""Questions to a Triton about itself, over the client's own connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import grpc  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2

from ctclip_client.errors import CTClipError, NotReady, ServerError, ServiceError
from ctclip_client.transport.blocking import run_procedure
from ctclip_client.transport.connection import Connection
from ctclip_client.transport.failures import PROBE_TIMEOUT_S, said, translated
from ctclip_client.transport.infer import Answer, Call, infer
from ctclip_client.transport.steps import Deadline, Flow, Rpc, Session


class Triton:
    """A connection for questions. Every method raises a ServiceError where no answer comes."""

    def __init__(self, connection: Connection) -> None:
        self._client = connection.client()
        self._timeout_s = connection.timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def is_live(self) -> bool:
        """Whether the server says that it lives. Raises Unavailable where nobody answers."""
        return bool(self._ask("ServerLive").live)

    def is_ready(self) -> bool:
        """Whether the server says that all its models are ready."""
        return bool(self._ask("ServerReady").ready)

    def is_model_ready(self, name: str) -> bool:
        """Whether a model is ready; false for an unknown one."""
        try:
            return bool(self._ask("ModelReady", name=name).ready)
        except NotReady:
            return False

    def metadata(self) -> Any:
        """Name, version and extensions of the server."""
        return self._ask("ServerMetadata")

    def index(self) -> list[Any]:
        """Return (name, version, state, reason) of every model of the repository."""
        return list(self._ask("RepositoryIndex").models)

    def config(self, name: str) -> Any:
        """Return the ModelConfig that is in force, completed by Triton."""
        return self._ask("ModelConfig", name=name).config

    def times(self) -> dict[tuple[str, str], dict[str, int]]:
        """(model, version) -> its `requests` that succeeded since its start, and nanoseconds of
        each phase: from the arrival to the answer (`total`), `queue`, `input`, `infer`, `output`.

        An ensemble's other phases are sums over its steps, which may run side by side: they need
        not add up to its total.
        """
        return {
            (entry.name, entry.version): {
                "requests": entry.inference_stats.success.count,
                "total": entry.inference_stats.success.ns,
                "queue": entry.inference_stats.queue.ns,
                "input": entry.inference_stats.compute_input.ns,
                "infer": entry.inference_stats.compute_infer.ns,
                "output": entry.inference_stats.compute_output.ns,
            }
            for entry in self._ask("ModelStatistics").model_stats
        }

    def infer(self, call: Call) -> Answer:
        """Run one model; the answer's names, types, shapes and finiteness have been checked."""
        deadline = Deadline(self._timeout_s)
        return run_procedure(self._client, lambda session: infer(session, call, deadline))

    def _ask(self, method: str, **fields: str) -> Any:
        # What is not there answers at once; a server that is busy deserves some patience.
        timeout_s = min(self._timeout_s, PROBE_TIMEOUT_S)
        return run_procedure(
            self._client, lambda session: _question(session, method, timeout_s, fields)
        )


def _question(
    session: Session, method: str, timeout_s: float, fields: Mapping[str, str]
) -> Flow[Any]:
    request = getattr(service_pb2, f"{method}Request")(**fields)
    where = session.endpoint.address
    try:
        answer = yield Rpc(method, request.SerializeToString(), timeout_s)
        return getattr(service_pb2, f"{method}Response").FromString(answer)
    except DecodeError as error:
        raise ServerError(
            f"{where}: its answer to {method} is no message of Triton.",
            "Is this the gRPC service of a Triton? Its port is usually 8001.",
        ) from error
    except grpc.RpcError as error:
        raise (yield from _failure(session, error, method, fields)) from error


def _failure(
    session: Session, error: grpc.RpcError, method: str, fields: Mapping[str, str]
) -> Flow[CTClipError]:
    where = session.endpoint.address
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (yield from translated(session, error, method))
    if fields and error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT):
        return NotReady(f"{where}: {said(error)}", "Load the model, or restart the server.")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        # Triton answers so for a restricted protocol, too; a server that lives is only shut here.
        found = yield from translated(session, error, fields.get("name", "ctclip_check"))
        if method == "ServerLive" or not isinstance(found, ServiceError):
            return found
    return ServiceError(
        f"{where}: {method} was refused ({error.code().name}): {said(error)}",
        "Access may be restricted (--grpc-restricted-protocol), or this is no Triton.",
    )
