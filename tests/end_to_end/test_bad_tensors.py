"""Every model of a repository, asked for nonsense past the client, which would refuse most of it.

Nonsense gets an error that names the field and what was expected; in a batch, which callers share,
its rows are marked by NaN and -1. The next good request gets the bits that it got before.
"""

from __future__ import annotations

import contextlib
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
         "needs at least 1 voxel")
        for shape in ((0, 24, 28), (20, 0, 28), (20, 24, 0), (0, 0, 0))
    ),
    ("VOLUME", np.zeros((24, 28), np.int16), INVALID, r"Expected \[-1,-1,-1\], got \[24,28\]"),
    ("VOLUME", np.zeros((20, 24, 28), np.float32), INVALID, "'FP32'.*expects 'INT16'"),
]  # fmt: skip
# Asked directly, there is no ctclip_check in front: the graph has to refuse by itself.
UNCHECKED: list[Bad] = [
    *(
        ("SPACING", spacing(*values), INTERNAL, "between 0.05 and 20")
        for values in (
            (NAN, 1, 1), (1, INF, 1), (1, 1, -1), (0, 1, 1), (1e300, 1, 1), (20, 1, 1),
            (0.05, 1, 1),
        )
    ),
    *(
        ("RESCALE", rescale(*values), INTERNAL, "other than 0")
        for values in ((NAN, 0), (INF, 0), (0, 0), (1, NAN), (1, -INF))
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
    ("IMAGE_EMBEDDING", floats(0, E), INTERNAL, "at least one"),
    ("IMAGE_EMBEDDING", floats(1, E, value=NAN), INTERNAL, "finite"),
    ("IMAGE_EMBEDDING", np.vstack([floats(1, E), floats(1, E, value=INF)]), INTERNAL, "finite"),
    ("IMAGE_EMBEDDING", floats(1, E, value=3e38), INTERNAL, "finite"),
    ("IMAGE_EMBEDDING", floats(1, E - 1), INVALID, r"Expected \[-1,32\], got \[1,31\]"),
    ("IMAGE_EMBEDDING", floats(E), INVALID, r"Expected \[-1,32\], got \[32\]"),
    ("IMAGE_EMBEDDING", floats(1, E).astype(np.float64), INVALID, "'FP64'.*expects 'FP32'"),
]
SCORES: list[Bad] = [
    ("TEXT_EMBEDDING", floats(0, E), INTERNAL, "must come in pairs"),
    ("TEXT_EMBEDDING", floats(3, E), INTERNAL, "must come in pairs"),
    ("TEXT_EMBEDDING", floats(2, E, value=NAN), INTERNAL, "finite"),
    ("TEXT_EMBEDDING", floats(2, E - 1), INVALID, r"Expected \[-1,32\], got \[2,31\]"),
]


VOXELS: list[Bad] = [
    ("VOXELS", floats(1, 1, 39, 60, 100), INVALID, r"Expected .*40,60,100\], got \[1,1,39"),
    ("VOXELS", floats(1, 40, 60, 100), INVALID, r"Expected .*40,60,100\], got \[1,40"),
    ("VOXELS", floats(1, 1, 40, 60, 100).astype(np.float16), INVALID, "'FP16'.*expects 'FP32'"),
    ("VOXELS", floats(0, 1, 40, 60, 100), INVALID, "Expected 960000, got 0"),
]
CODES: list[Bad] = [
    ("CODES", np.full((1, 4, 3, 5), CODE_COUNT, np.int32), INTERNAL, "from 0 to 255"),
    ("CODES", np.full((1, 4, 3, 5), -1, np.int32), INTERNAL, "from 0 to 255"),
    ("CODES", np.zeros((0, 4, 3, 5), np.int32), INTERNAL, "at least one"),
    ("CODES", np.zeros((1, 3, 3, 5), np.int32), INVALID, r"Expected \[-1,4,3,5\], got \[1,3"),
    *(
        ("IMAGE_NORM", floats(1, 1, value=value), INTERNAL, "above 0")
        for value in (0, -1, NAN, INF, 1e-45)
    ),
    ("IMAGE_NORM", floats(2, 1), INTERNAL, "for each volume"),
]
TOKEN_SHAPE = (2, 11)  # of the good request
TOKENS: list[Bad] = [
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


@pytest.mark.slow
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


# --- rows of a batch, which callers share ---


def voxels(value: float, at: int) -> Array:
    """Of the golden grid, one of them odd."""
    array = floats(1, 1, 40, 60, 100)
    array.ravel()[at] = value
    return array


def tokens(value: int, *at: int) -> Array:
    array = np.ones(TOKEN_SHAPE, np.int64)
    array[at] = value
    return array


MARKED: dict[str, list[tuple[str, Array, set[int]]]] = {
    "ctclip_vision": [
        ("VOXELS", np.vstack([floats(1, 1, 40, 60, 100), voxels(value, at)]), {1})
        for value in (NAN, INF, -INF, 1e30)
        for at in (0, 120_000, 239_999)
    ],
    "ctclip_text": [
        *(
            ("INPUT_IDS", tokens(value, 1, 10), {1})
            for value in (
                -1, -(10**6), 10**6, 10**9, -(2**31), 2**31 - 1, 2**31, 2**32, -(2**63),
            )
        ),
        *(
            ("ATTENTION_MASK", wrong, rows)
            for wrong, rows in (
                (tokens(0, 0), {0}), (tokens(0, 1), {1}), (tokens(0), {0, 1}),
                (tokens(2, 1, 3), {1}), (tokens(-1, 0, 0), {0}), (tokens(2**32, 1, 10), {1}),
            )
        ),
    ],
}  # fmt: skip
"""Input, what is sent in its place, the rows that are bad."""
SHAPELESS = [
    ("ATTENTION_MASK", tokens(1)[:, :1]), ("ATTENTION_MASK", tokens(1)[:, :5]),
    *(("INPUT_IDS", np.ones((2, length), np.int64)) for length in (0, 1, 3, 513)),
]  # fmt: skip


def check_marks(found: Arrays, rows: set[int]) -> None:
    for array in found.values():
        marked = (array == -1) if array.dtype == np.int32 else np.isnan(array)
        by_row = marked.reshape(len(array), -1)
        assert set(np.flatnonzero(by_row.all(1))) == rows
        assert set(np.flatnonzero(by_row.any(1))) == rows


@pytest.fixture(scope="module")
def in_openvino(openvino_server: EmbeddedTriton) -> Iterator[Caller]:
    made = Caller(openvino_server.grpc_url)
    yield made
    made.client.close()


@pytest.mark.parametrize("engine", ["caller", "in_openvino"])
@pytest.mark.parametrize("model", MARKED)
def test_a_bad_row_is_marked_and_the_others_are_answered(
    model: str, engine: str, request: pytest.FixtureRequest, good: dict[str, Arrays]
) -> None:
    asked: Caller = request.getfixturevalue(engine)
    before = asked.bits(model, good[model])
    for name, array, rows in MARKED[model]:
        inputs = good[model] | {name: array}
        beyond = array.dtype == np.int64 and not -(2**31) <= array.min() <= array.max() < 2**31
        if engine == "in_openvino" and beyond:  # it cuts them; what the drop-in does has its test
            continue
        check_marks(asked.arrays(model, inputs), rows)
        assert asked.bits(model, good[model]) == before


@pytest.mark.parametrize("engine", ["caller", "in_openvino"])
def test_tensors_of_unequal_shapes_get_no_answer(
    engine: str, request: pytest.FixtureRequest, good: dict[str, Arrays]
) -> None:
    """Refused or marked, as the engine has it: nobody else's request has such shapes."""
    asked: Caller = request.getfixturevalue(engine)
    for name, array in SHAPELESS:
        with contextlib.suppress(triton.InferenceServerException):
            found = asked.arrays("ctclip_text", good["ctclip_text"] | {name: array})
            check_marks(found, set(range(len(array))))


def test_bad_rows_of_one_caller_fail_no_other(caller: Caller, good: dict[str, Arrays]) -> None:
    """A flood of them straight at the encoders, beside others' requests to the ensembles."""
    text = good["ctclip_text_embedding"]
    ids = caller.arrays("ctclip_tokenizer", text)
    floods = [
        ("ctclip_vision", {"VOXELS": voxels(NAN, 0)}),
        ("ctclip_text", ids | {"INPUT_IDS": ids["INPUT_IDS"] + 10**6}),
        ("ctclip_text", ids | {"ATTENTION_MASK": ids["ATTENTION_MASK"] * 0}),
    ]
    others = ["ctclip_pathologies", "ctclip_text_embedding", "ctclip_zero_shot"]
    alone = {model: caller.arrays(model, good[model]) for model in others}

    def ask(number: int) -> None:
        if number % 2:
            model, inputs = floods[number // 2 % len(floods)]
            found = caller.arrays(model, inputs)
            check_marks(found, set(range(len(next(iter(found.values()))))))
            return
        model = others[number // 2 % len(others)]
        for name, array in caller.arrays(model, good[model]).items():
            if array.dtype == np.float32:  # a product of more rows may round otherwise
                np.testing.assert_allclose(array, alone[model][name], atol=1e-5)

    def shared(model: str) -> int:
        stats = caller.client.get_inference_statistics(model).model_stats[0]
        return int(stats.inference_count - stats.execution_count)

    before = shared("ctclip_text")
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(ask, range(360)))
    assert shared("ctclip_text") > before  # on CPUs, scans are encoded one by one
