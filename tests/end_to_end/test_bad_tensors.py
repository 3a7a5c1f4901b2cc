"""Every model of a repository, asked for nonsense past the client, which would refuse most of it.

The answer names the field, what came and what was expected, and the next good request gets the bits
that it got before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import grpc as triton
from tritonclient.utils import np_to_triton_dtype

from ctclip_client.contract import (
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MODELS,
    VOLUME,
)
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden

Array = NDArray[Any]
Arrays = dict[str, Array]
TIMEOUT_S = 60
NAN, INF = np.nan, np.inf
E, CODE_COUNT = 32, 256  # of the golden checkpoint
SCANS = [entry.name for entry in (*ENSEMBLES, *CLASSFINE_ENSEMBLES) if VOLUME in entry.inputs]


class Caller:
    """Sends tensors as they are; answers are bytes by name."""

    def __init__(self, url: str) -> None:
        self.client = triton.InferenceServerClient(url)

    def arrays(self, model: str, inputs: Arrays) -> Arrays:
        tensors = []
        for name, array in inputs.items():
            dtype = np_to_triton_dtype(array.dtype)
            tensors.append(triton.InferInput(name, list(array.shape), dtype))
            tensors[-1].set_data_from_numpy(np.ascontiguousarray(array))
        result = self.client.infer(model, tensors, client_timeout=TIMEOUT_S)
        return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}

    def bits(self, model: str, inputs: Arrays) -> dict[str, object]:
        found = self.arrays(model, inputs)
        return {n: a.tolist() if a.dtype == object else a.tobytes() for n, a in found.items()}

    def refusal(self, model: str, inputs: Arrays) -> tuple[str, str]:
        """Status and message; the request must not be answered."""
        with pytest.raises(triton.InferenceServerException) as caught:
            self.arrays(model, inputs)
        return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


@pytest.fixture(scope="module")
def caller(classfine_repository: Path) -> Iterator[Caller]:
    """Of a server with every model there is, ClassFine's too; its own, since it may not survive."""
    with EmbeddedTriton(classfine_repository) as server:
        made = Caller(server.grpc_url)
        yield made
        made.client.close()


def texts(*items: bytes) -> Array:
    return np.array(items, np.object_)


def floats(*shape: int, value: float = 0.5) -> Array:
    return np.full(shape, value, np.float32)


@pytest.fixture(scope="module")
def good(golden: Golden, caller: Caller) -> dict[str, Arrays]:
    """A request for each model; the outputs of one are the inputs of the next."""
    phantom = chest_phantom(golden.geometry)
    scan: Arrays = {
        "VOLUME": phantom.voxels,
        "SPACING": np.array(phantom.spacing_mm, np.float64),
        "RESCALE": np.array(phantom.rescale, np.float32),
    }
    text = {"TEXT": texts(b"Nodule is present.", b"No effusion.")}
    voxels = {"VOXELS": caller.arrays("ctclip_preprocess", scan)["VOXELS"]}
    image = caller.arrays("ctclip_vision", voxels)
    tokens = caller.arrays("ctclip_tokenizer", text)
    embedding = {"IMAGE_EMBEDDING": image["IMAGE_EMBEDDING"]}
    return {
        "ctclip_check": {name: scan[name] for name in ("SPACING", "RESCALE")},
        "ctclip_preprocess": scan,
        "ctclip_vision": voxels,
        "ctclip_tokenizer": text,
        "ctclip_text": tokens,
        "ctclip_gate": {"SPACING": scan["SPACING"]} | caller.arrays("ctclip_text", tokens),
        "ctclip_score": embedding | caller.arrays("ctclip_text", tokens),
        "ctclip_findings": embedding,
        "ctclip_classfine": embedding,
        "ctclip_relevance": {name: image[name] for name in ("CODES", "IMAGE_NORM")},
        "ctclip_text_embedding": text,
        **dict.fromkeys(SCANS, scan),
        "ctclip_zero_shot": scan | {"PROMPTS": text["TEXT"]},
    }


INVALID, INTERNAL = "INVALID_ARGUMENT", "INTERNAL"
Bad = tuple[str, Array, str, str]
"""Input, what is sent in its place, status, words of the message besides the input's name."""


def spacing(*values: float) -> Array:
    return np.array(values, np.float64)


def rescale(*values: float) -> Array:
    return np.array(values, np.float32)


SHAPES: list[Bad] = [
    ("SPACING", spacing(1, 1), INVALID, r"Expected \[3\], got \[2\]"),
    ("SPACING", spacing(1, 1, 1).astype(np.float32), INVALID, r"'FP32'.*expects 'FP64'"),
    ("RESCALE", rescale(1), INVALID, r"Expected \[2\], got \[1\]"),
    ("RESCALE", rescale(1, 0).astype(np.float64), INVALID, r"'FP64'.*expects 'FP32'"),
]
CHECKED: list[Bad] = [
    ("SPACING", spacing(NAN, 1, 1), INVALID, "z is nan mm, expected a finite number between"),
    ("SPACING", spacing(1, INF, 1), INVALID, "x is inf mm, expected a finite number between"),
    ("SPACING", spacing(1, 1, -1), INVALID, "y is -1.0 mm, expected a finite number between"),
    ("SPACING", spacing(1e300, 1, 1), INVALID, r"z is 1e\+300 mm, expected a finite"),
    ("SPACING", spacing(0.01, 1, 1), INVALID, "z is 0.01 mm, expected a finite number between"),
    ("SPACING", spacing(1, 20, 1), INVALID, "x is 20.0 mm, expected a finite number between"),
    ("RESCALE", rescale(NAN, 0), INVALID, "slope is nan, expected a finite number other than 0"),
    ("RESCALE", rescale(0, 0), INVALID, "slope is 0.0, expected a finite number other than 0"),
    ("RESCALE", rescale(1, -INF), INVALID, "intercept is -inf, expected a finite number"),
]
VOLUMES: list[Bad] = [
    *(
        ("VOLUME", np.zeros(shape, np.int16), INTERNAL,
         rf"needs at least 1 voxel.*got .*VOLUME INT16 \[{', '.join(map(str, shape))}\]")
        for shape in ((0, 24, 28), (20, 0, 28), (20, 24, 0), (0, 0, 0))
    ),
    ("VOLUME", np.zeros((24, 28), np.int16), INVALID, r"Expected \[-1,-1,-1\], got \[24,28\]"),
    ("VOLUME", np.zeros((20, 24, 28), np.float32), INVALID, "'FP32'.*expects 'INT16'"),
]  # fmt: skip
# Asked directly, there is no ctclip_check in front: the graph has to refuse by itself.
UNCHECKED: list[Bad] = [
    *(
        ("SPACING", spacing(*values), INTERNAL, rf"between 0.05 and 20.*got .*SPACING .*{said}")
        for values, said in (
            ((NAN, 1, 1), "nan"), ((1, INF, 1), "inf"), ((1, 1, -1), "-1"), ((0, 1, 1), "0"),
            ((1e300, 1, 1), r"1e\+300"), ((20, 1, 1), "20"), ((0.05, 1, 1), "0.05"),
        )
    ),
    *(
        ("RESCALE", rescale(*values), INTERNAL, rf"other than 0.*got .*RESCALE .*{said}")
        for values, said in (
            ((NAN, 0), "nan"), ((INF, 0), "inf"), ((0, 0), "0"), ((1, NAN), "nan"),
            ((1, -INF), "-inf"),
        )
    ),
]  # fmt: skip
TEXTS: list[Bad] = [
    ("TEXT", texts(), INVALID, "got no texts, expected 1 to 64"),
    ("TEXT", texts(*[b"a"] * 65), INVALID, "got 65 texts, expected 1 to 64"),
    ("TEXT", texts(*[b"a"] * 20_000), INVALID, "got 20000 texts, expected 1 to 64"),
    ("TEXT", texts(b"a", b"a\xff"), INVALID, "item 1 .*0xff at byte 1, expected UTF-8"),
    ("TEXT", texts(b"a").reshape(1, 1), INVALID, r"Expected \[-1\], got \[1,1\]"),
    ("TEXT", np.zeros(2, np.int64), INVALID, "'INT64'.*expects 'BYTES'"),
]
PROMPTS: list[Bad] = [
    ("PROMPTS", *bad[1:3], bad[3]) for bad in TEXTS if bad[1].ndim == 1 and bad[1].dtype == object
] + [
    ("PROMPTS", texts(b"a"), INVALID, "got 1 rows, expected pairs"),
    ("PROMPTS", texts(b"a", b"b", b"c"), INVALID, "got 3 rows, expected pairs"),
]
GATES: list[Bad] = [
    ("SPACING", np.ones(2), INVALID, r"Expected \[3\], got \[2\]"),
    ("TEXT_EMBEDDING", floats(3, E), INVALID, "got 3 rows, expected pairs"),
    ("TEXT_EMBEDDING", floats(0, E), INVALID, "got 0 rows, expected pairs"),
    ("TEXT_EMBEDDING", floats(2, E - 1), INVALID, r"Expected \[-1,32\], got \[2,31\]"),
]
EMBEDDINGS: list[Bad] = [
    ("IMAGE_EMBEDDING", floats(0, E), INTERNAL, r"at least one.*got .*\[0, 32\]"),
    ("IMAGE_EMBEDDING", floats(1, E, value=NAN), INTERNAL, r"finite.*got .*\[1, 32\]"),
    ("IMAGE_EMBEDDING", np.vstack([floats(1, E), floats(1, E, value=INF)]), INTERNAL, "finite"),
    ("IMAGE_EMBEDDING", floats(1, E, value=3e38), INTERNAL, "finite"),
    ("IMAGE_EMBEDDING", floats(1, E - 1), INVALID, r"Expected \[-1,32\], got \[1,31\]"),
    ("IMAGE_EMBEDDING", floats(E), INVALID, r"Expected \[-1,32\], got \[32\]"),
    ("IMAGE_EMBEDDING", floats(1, E).astype(np.float64), INVALID, "'FP64'.*expects 'FP32'"),
]
SCORES: list[Bad] = [
    ("TEXT_EMBEDDING", floats(0, E), INTERNAL, r"must come in pairs.*got .*\[0, 32\]"),
    ("TEXT_EMBEDDING", floats(3, E), INTERNAL, r"must come in pairs.*got .*\[3, 32\]"),
    ("TEXT_EMBEDDING", floats(2, E, value=NAN), INTERNAL, "finite"),
    ("TEXT_EMBEDDING", floats(2, E - 1), INVALID, r"Expected \[-1,32\], got \[2,31\]"),
]


def voxels(value: float, at: int) -> Array:
    """Of the golden grid, one of them odd."""
    array = floats(1, 1, 40, 60, 100)
    array.ravel()[at] = value
    return array


NO_VOXELS: list[Bad] = [
    ("VOXELS", voxels(value, at), INTERNAL,
     r"finite numbers.*got .*VOXELS FP32 \[1, 1, 40, 60, 100\]")
    for value in (NAN, INF, -INF, 1e30)
    for at in (0, 120_000, 239_999)
]  # fmt: skip
VOXELS: list[Bad] = [
    *NO_VOXELS,
    ("VOXELS", floats(1, 1, 39, 60, 100), INVALID, r"Expected .*40,60,100\], got \[1,1,39"),
    ("VOXELS", floats(1, 40, 60, 100), INVALID, r"Expected .*40,60,100\], got \[1,40"),
    ("VOXELS", floats(1, 1, 40, 60, 100).astype(np.float16), INVALID, "'FP16'.*expects 'FP32'"),
    ("VOXELS", floats(0, 1, 40, 60, 100), INVALID, "Expected 960000, got 0"),
]
CODES: list[Bad] = [
    ("CODES", np.full((1, 4, 3, 5), CODE_COUNT, np.int32), INTERNAL, "from 0 to 255"),
    ("CODES", np.full((1, 4, 3, 5), -1, np.int32), INTERNAL, "from 0 to 255"),
    ("CODES", np.zeros((0, 4, 3, 5), np.int32), INTERNAL, r"at least one.*got .*\[0, 4, 3, 5\]"),
    ("CODES", np.zeros((1, 3, 3, 5), np.int32), INVALID, r"Expected \[-1,4,3,5\], got \[1,3"),
    *(
        ("IMAGE_NORM", floats(1, 1, value=value), INTERNAL, r"above 0.*got .*\[1, 1\]")
        for value in (0, -1, NAN, INF, 1e-45)
    ),
    ("IMAGE_NORM", floats(2, 1), INTERNAL, r"for each volume.*got .*\[2, 1\]"),
]
TOKEN_SHAPE = (2, 11)  # of the good request


def tokens(value: int, *at: int) -> Array:
    array = np.ones(TOKEN_SHAPE, np.int64)
    array[at] = value
    return array


NO_TOKENS: list[Bad] = [
    *(
        ("INPUT_IDS", tokens(value, 1, 10), INTERNAL,
         r"rows of 1 to 512 ids, each from 0 to \d+'.*got INPUT_IDS INT64 \[2, 11\]")
        for value in (-1, -(10**6), 10**6, 10**9, -(2**31), 2**31 - 1, 2**31, 2**32, -(2**63))
    ),
    *(
        ("ATTENTION_MASK", wrong, INTERNAL,
         rf"0 and 1 in the shape of INPUT_IDS, with a 1 in.*ATTENTION_MASK INT64 \[2, {length}\]")
        for wrong, length in (
            (tokens(0, 0), 11), (tokens(0, 1), 11), (tokens(0), 11), (tokens(2, 1, 3), 11),
            (tokens(-1, 0, 0), 11), (tokens(2**32, 1, 10), 11), (tokens(1)[:, :1], 1),
            (tokens(1)[:, :5], 5),
        )
    ),
    ("INPUT_IDS", np.ones((2, 3), np.int64), INTERNAL,
     r"in the shape of INPUT_IDS.*got INPUT_IDS INT64 \[2, 3\]"),
    ("INPUT_IDS", np.ones((2, 513), np.int64), INTERNAL,
     r"(rows of 1 to 512 ids|in the shape of INPUT_IDS).*got INPUT_IDS INT64 \[2, 513\]"),
]  # fmt: skip
TOKENS: list[Bad] = [
    *NO_TOKENS,
    ("INPUT_IDS", np.ones((2, 0), np.int64), INTERNAL, r"got INPUT_IDS INT64 \[2, 0\]"),
    ("INPUT_IDS", np.ones(9, np.int64), INVALID, "batch size does not match"),
    ("INPUT_IDS", np.ones(TOKEN_SHAPE, np.int32), INVALID, "'INT32'.*expects 'INT64'"),
]

TRIED: dict[str, list[Bad]] = {
    "ctclip_check": SHAPES + CHECKED,
    "ctclip_preprocess": SHAPES + VOLUMES + UNCHECKED,
    "ctclip_vision": VOXELS,
    "ctclip_tokenizer": TEXTS,
    "ctclip_text": TOKENS,
    "ctclip_gate": GATES,
    "ctclip_score": EMBEDDINGS + SCORES,
    "ctclip_findings": EMBEDDINGS,
    "ctclip_classfine": EMBEDDINGS,
    "ctclip_relevance": CODES,
    "ctclip_text_embedding": TEXTS,
    **dict.fromkeys(SCANS, SHAPES + CHECKED + VOLUMES),
    "ctclip_zero_shot": SHAPES + CHECKED + VOLUMES + PROMPTS,
}


def test_every_model_is_tried() -> None:
    everything = (*MODELS, *CLASSFINE_MODELS, *ENSEMBLES, *CLASSFINE_ENSEMBLES)
    assert set(TRIED) == {entry.name for entry in everything}


@pytest.mark.parametrize("model", TRIED)
def test_nonsense_is_refused_in_words_and_leaves_no_trace(
    model: str, caller: Caller, good: dict[str, Arrays]
) -> None:
    before = caller.bits(model, good[model])
    for name, array, status, words in TRIED[model]:
        sent = f"{name} {array.dtype} {array.shape} {array.ravel()[:4]}"
        got, message = caller.refusal(model, good[model] | {name: array})
        assert got == status, sent
        assert name in message, (sent, message)
        assert re.search(words, " ".join(message.split())), (sent, message)
        assert caller.bits(model, good[model]) == before, sent


@pytest.mark.parametrize("model", TRIED)
def test_an_input_that_is_missing_is_the_callers_error(
    model: str, caller: Caller, good: dict[str, Arrays]
) -> None:
    before = caller.bits(model, good[model])
    for name in good[model]:
        rest = {other: array for other, array in good[model].items() if other != name}
        if rest:  # the client library sends no request without any input
            status, message = caller.refusal(model, rest)
            assert status == INVALID, message
            assert "Traceback" not in message
    assert caller.bits(model, good[model]) == before


def test_a_storm_of_refusals_stops_nothing(caller: Caller, good: dict[str, Arrays]) -> None:
    """Triton 2.51 may end, or stop, where a step fails beside another one: see ctclip_gate."""
    model = "ctclip_zero_shot"
    before = caller.bits(model, good[model])
    wrong = [
        good[model] | {"SPACING": spacing(NAN, 1, 1)},
        good[model] | {"VOLUME": np.zeros((0, 24, 28), np.int16)},
        good[model] | {"PROMPTS": texts(b"a", b"\xff")},
        good[model] | {"PROMPTS": texts(*[b"a"] * 66)},
    ]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: caller.refusal(model, wrong[n % 4])[0], range(4000)))
    assert set(found) == {INVALID, INTERNAL}
    assert caller.bits(model, good[model]) == before


# --- the same graphs in the other engine ---


@pytest.fixture(scope="module")
def in_openvino(openvino_server: EmbeddedTriton) -> Iterator[Caller]:
    made = Caller(openvino_server.grpc_url)
    yield made
    made.client.close()


@pytest.mark.parametrize(
    ("model", "tried"), [("ctclip_vision", NO_VOXELS), ("ctclip_text", NO_TOKENS)]
)
def test_openvino_refuses_every_time(
    model: str, tried: list[Bad], in_openvino: Caller, good: dict[str, Arrays]
) -> None:
    """It infers a shape once and remembers that it did: a refusal must not wear off."""
    before = in_openvino.bits(model, good[model])
    for name, array, _, words in tried:
        expected = INTERNAL, words
        if array.dtype == np.int64 and not (array.min() >= -(2**31) and array.max() < 2**31):
            expected = INVALID, f"input '{name}': got numbers from .* in 32 bits"
        for _ in range(2):
            status, message = in_openvino.refusal(model, good[model] | {name: array})
            assert status == expected[0], message
            assert re.search(expected[1], " ".join(message.split())), message
        assert in_openvino.bits(model, good[model]) == before
