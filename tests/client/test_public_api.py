"""What others may import, and what importing must not drag in."""

from __future__ import annotations

import inspect
import sys

import ctclip_client
from ctclip_client import AsyncClient, Client, CTClipError, InvalidInput, ServiceError

from ..programs import run

PUBLIC = [
    "AsyncClient", "CTClipError", "Classification", "Client", "DeadlineExceeded", "Explanation",
    "Finding", "InvalidInput", "NotReady", "Provenance", "Scan", "Scores", "ServerError",
    "ServiceError", "Source", "Tls", "Transport", "Unavailable", "Unreadable", "Volume",
    "find_scans", "read_volume", "save_relevance",
]  # fmt: skip


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = run([sys.executable, "-W", "error", "-c", code])
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_public_names_are_pinned() -> None:
    assert ctclip_client.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(ctclip_client, name).__doc__, name
    assert set(PUBLIC) <= set(dir(ctclip_client))
    assert not hasattr(ctclip_client, "no_such_name")


def test_the_contract_needs_nothing() -> None:
    loaded = modules_after("import ctclip_client, ctclip_client.contract, ctclip_client.errors")
    assert not loaded & {"numpy", "grpc", "tritonclient", "nibabel", "torch", "onnx", "rich"}


def test_the_client_needs_no_model_library() -> None:
    loaded = modules_after("from ctclip_client import *")
    assert not loaded & {"torch", "onnx", "onnxruntime", "transformers", "nibabel", "pydicom"}


def test_both_clients_offer_the_same() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert methods(Client) == methods(AsyncClient)
    for name in ("__init__", "pathologies", "zero_shot", "encode_image", "encode_text"):
        parameters = inspect.signature(getattr(Client, name)).parameters.values()
        assert sum(p.kind is not p.KEYWORD_ONLY for p in parameters) <= 5


def test_errors_form_one_tree_with_exit_codes() -> None:
    errors = [
        getattr(ctclip_client, name)
        for name in PUBLIC
        if inspect.isclass(getattr(ctclip_client, name))
        and issubclass(getattr(ctclip_client, name), Exception)
    ]
    assert all(issubclass(error, CTClipError) for error in errors)
    assert {error.exit_code for error in errors if issubclass(error, InvalidInput)} == {2}
    assert {error.exit_code for error in errors if issubclass(error, ServiceError)} == {4}
    error = InvalidInput("cause.", "remedy.")
    assert (error.cause, error.remedy, str(error)) == ("cause.", "remedy.", "cause. remedy.")
