"""The refusals on docs/contract.md: each is provoked, and has the statuses that the page states."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ctclip_client.contract import PATHOLOGIES, TEXT_EMBEDDING_ENSEMBLE, ZERO_SHOT
from ctclip_server.embedded.server import EmbeddedTriton

from .support import ROOT

PAGE = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Refusals\n")[2].partition("As Triton documents it")[0]
ROWS = re.findall(r"^\| ([^|]+) \| ([A-Z_]+) \| (\d+) \|$", SECTION, re.MULTILINE)
REFUSALS = {cause: (by_grpc, by_http) for cause, by_grpc, by_http in ROWS}

Arrays = dict[str, NDArray[Any]]


def scan(
    shape: tuple[int, ...] = (20, 24, 28),
    spacing: tuple[float, ...] = (2.5, 0.7, 0.7),
    rescale: tuple[float, ...] = (1, -1024),
) -> Arrays:
    return {
        "VOLUME": np.zeros(shape, np.int16),
        "SPACING": np.array(spacing, np.float64),
        "RESCALE": np.array(rescale, np.float32),
    }


def texts(name: str, *items: bytes) -> Arrays:
    return {name: np.array(items, np.object_)}


def relevance(code: int = 0, norm: float = 1) -> Arrays:
    codes = np.full((1, 4, 3, 5), code, np.int32)
    return {"CODES": codes, "IMAGE_NORM": np.full((1, 1), norm, np.float32)}


NAN, INFINITE = float("nan"), float("inf")
SCANS, EMBED = PATHOLOGIES.name, TEXT_EMBEDDING_ENSEMBLE.name

WRONG: dict[str, list[tuple[str, Arrays]]] = {
    "a spacing outside its limits, NaN or infinite": [
        (SCANS, scan(spacing=(value, 0.7, 0.7))) for value in (0.0, 0.05, 20.0, NAN, INFINITE)
    ],
    "a slope of 0, NaN or infinite; an intercept NaN or infinite": [
        (SCANS, scan(rescale=pair))
        for pair in ((0, 0), (NAN, 0), (INFINITE, 0), (1, NAN), (1, INFINITE))
    ],
    "a tensor with another name, data type or number of axes": [
        (SCANS, scan() | {"VOLUME": np.zeros((20, 24, 28), np.uint16)}),
        (SCANS, scan(shape=(24, 28))),
        (SCANS, scan(spacing=(2.5, 0.7))),
        (SCANS, {"IMAGE" if name == "VOLUME" else name: it for name, it in scan().items()}),
    ],
    "an input missing, or one too many": [
        (SCANS, {name: it for name, it in scan().items() if name != "RESCALE"}),
        (SCANS, scan() | texts("PROMPTS", b"a", b"b")),
    ],
    "more texts than fit into one request": [
        (EMBED, texts("TEXT", *[b"a"] * 65)),
        (ZERO_SHOT.name, scan() | texts("PROMPTS", *[b"a"] * 66)),
    ],
    "no texts, or bytes that are not UTF-8": [
        (EMBED, texts("TEXT")),
        (EMBED, texts("TEXT", b"\xff")),
    ],
    "a volume with an axis of size 0": [
        (SCANS, scan(shape=shape)) for shape in ((0, 24, 28), (20, 0, 28), (20, 24, 0))
    ],
    "a malformed embedding, code or length, sent to a model": [
        ("ctclip_findings", {"IMAGE_EMBEDDING": np.full((1, 32), NAN, np.float32)}),
        ("ctclip_relevance", relevance(code=-1)),
        ("ctclip_relevance", relevance(norm=0)),
        ("ctclip_relevance", relevance(norm=NAN)),
    ],
    "an odd number of prompts": [(ZERO_SHOT.name, scan() | texts("PROMPTS", b"a", b"b", b"c"))],
    "an unknown model or version": [
        ("ctclip_nothing", scan()),
        (f"{SCANS}/versions/99", scan()),
    ],
}


def status(module: Any, triton: Any, path: str, arrays: Arrays, *outputs: str) -> str:
    """module: tritonclient's `grpc` or `http`. outputs: those asked for; none for all."""
    model, _, version = path.partition("/versions/")
    inputs = []
    for name, array in arrays.items():
        dtype = np_to_triton_dtype(array.dtype)
        inputs.append(module.InferInput(name, list(array.shape), dtype))
        inputs[-1].set_data_from_numpy(array)
    asked = [module.InferRequestedOutput(name) for name in outputs]
    try:
        triton.infer(model, inputs, model_version=version, outputs=asked)
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode.")
    return "OK"


@pytest.fixture
def statuses(server: EmbeddedTriton) -> Iterator[Callable[..., tuple[str, str]]]:
    """The same request over gRPC and over HTTP."""
    with (
        grpc.InferenceServerClient(server.grpc_url) as by_grpc,
        http.InferenceServerClient(server.http_url) as by_http,
    ):
        yield lambda *request: (status(grpc, by_grpc, *request), status(http, by_http, *request))


def test_every_refusal_is_tried() -> None:
    assert set(WRONG) == set(REFUSALS)
    assert all(WRONG.values())


def test_a_good_request_is_not_refused(statuses: Any) -> None:
    for path, arrays in ((SCANS, scan()), (EMBED, texts("TEXT", *[b"a"] * 64))):
        assert statuses(path, arrays) == ("OK", "OK")


def test_fewer_outputs_than_an_ensemble_has_are_a_fault_of_triton(statuses: Any) -> None:
    """Should this fail one day, the page's advice to take all outputs can go."""
    assert statuses(SCANS, scan(), "PROBABILITIES")[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("cause", REFUSALS)
def test_refusals_have_the_status_on_the_page(statuses: Any, cause: str) -> None:
    for path, arrays in WRONG[cause]:
        assert statuses(path, arrays) == REFUSALS[cause]
