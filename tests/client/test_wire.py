"""Messages put together by hand are the ones that tritonclient would send."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import InferInput, InferRequestedOutput, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from ctclip_client import Finding, InvalidInput, ServerError, Volume
from ctclip_client.contract import PROMPTS, TEXT, VOLUME, ZERO_SHOT, Tensor
from ctclip_client.transport.procedures import _scan, encode_text, zero_shot
from ctclip_client.transport.shared_memory import Region
from ctclip_client.transport.wire import Input, infer_request, infer_response, strings

from .test_failures import session


@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    texts=st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=4),
)
def test_a_request_is_what_tritonclient_sends(
    shape: tuple[int, int, int], texts: list[str]
) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)[::-1]
    volume = Volume.from_array(voxels, (2.5, 0.7, 0.8), (1, -1024))
    inputs = (*_scan(volume), Input(PROMPTS, strings(texts)))
    theirs = []
    for item in inputs:
        entry = InferInput(item.tensor.name, list(item.array.shape), item.tensor.dtype)
        theirs.append(entry.set_data_from_numpy(item.array))
    names = [InferRequestedOutput(tensor.name) for tensor in ZERO_SHOT.outputs]
    expected = _get_inference_request(
        ZERO_SHOT.name, theirs, "", "", names, 0, False, False, 0, None, None
    )
    got = infer_request(ZERO_SHOT.name, inputs, ZERO_SHOT.outputs)
    assert service_pb2.ModelInferRequest.FromString(got) == expected


def test_shared_memory_is_named_and_not_sent() -> None:
    region = Region(48)
    try:
        voxels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
        got = infer_request("m", [Input(VOLUME, voxels, region)], [])
        entry = InferInput("VOLUME", [2, 3, 4], "INT16").set_shared_memory(region.name, 48)
        expected = _get_inference_request("m", [entry], "", "", [], 0, False, False, 0, None, None)
        assert service_pb2.ModelInferRequest.FromString(got) == expected
    finally:
        region.close()


def test_more_than_two_gigabytes_is_refused_before_anything_is_copied() -> None:
    voxels = np.broadcast_to(np.int16(0), (1100, 1000, 1000))  # one voxel of memory
    volume = Volume.from_array(voxels, (1, 1, 1), (1, 0))
    with pytest.raises(InvalidInput, match="2,200,000") as caught:
        infer_request("m", _scan(volume), [])
    assert "shared memory" in caught.value.remedy


def answer(tensor: Tensor, shape: tuple[int, ...], raw: bytes, dtype: str | None = None) -> bytes:
    message = service_pb2.ModelInferResponse(model_name="m")
    entry = message.outputs.add(name=tensor.name, datatype=dtype or tensor.dtype)
    entry.shape.extend(shape)
    message.raw_output_contents.append(raw)
    return bytes(message.SerializeToString())


LOGITS = Tensor("LOGITS", "FP32", (1, "P", 2))
ONES = np.ones(4, np.float32).tobytes()


def test_a_good_answer() -> None:
    got = infer_response(answer(LOGITS, (1, 2, 2), ONES), [LOGITS], {"P": 2})
    np.testing.assert_array_equal(got["LOGITS"], np.ones((1, 2, 2)))
    assert got["LOGITS"].flags.writeable


@pytest.mark.parametrize(
    "wrong",
    [
        b"\xff\xff",
        b"",
        answer(LOGITS, (1, 2, 2), ONES, "FP64"),
        answer(LOGITS, (1, 2), ONES),
        answer(LOGITS, (1, 4, 1), ONES),
        answer(LOGITS, (1, 3, 2), ONES),
        answer(LOGITS, (1, 2, 2), ONES[:-1]),
        answer(LOGITS, (1, 2, 2), b"\xff" * 16),
        answer(Tensor("OTHER", "FP32", ()), (1, 2, 2), ONES),
    ],
)
def test_a_wrong_answer_is_the_servers_error(wrong: bytes) -> None:
    with pytest.raises(ServerError):
        infer_response(wrong, [LOGITS], {"P": 2})


@pytest.mark.parametrize("raw", [b"", b"\1\0\0", b"\5\0\0\0abc", b"\1\0\0\0a\1\0\0\0b"])
def test_damaged_text_in_an_answer(raw: bytes) -> None:
    tensor = Tensor("PROVENANCE", "BYTES", (1,))
    with pytest.raises(ServerError, match="damaged text"):
        infer_response(answer(tensor, (1,), raw), [tensor], {})


def test_wrong_arguments_are_told_before_anything_is_sent() -> None:
    volume = Volume.from_array(np.zeros((2, 2, 2), np.int16), (1, 1, 1), (1, 0))
    for prompts, message in (
        ([], "the list is empty"),
        ("present", "got one text"),
        (None, "got NoneType"),
        (["present"], r"prompts\[0\]: got str"),
        ([("a", "b"), ("a", "")], r"prompts\[1\], absent: the sentence is empty"),
        ([("a", "b"), ("A  nodule.", "a nodule. ")], r"prompts\[1\]: 'absent' is .* the same as"),
        ([Finding("f", "a", "a")], r"prompts\[0\]: 'absent' is 'a', the same as"),
        ([("a", 1)], r"prompts\[0\], absent: got int"),
        ([("a", "\ud800")], "cannot be written as UTF-8"),
    ):
        with pytest.raises(InvalidInput, match=message):
            next(zero_shot(session(), volume, prompts))  # type: ignore[arg-type]
    for texts, message in (([], "empty"), ("one", "got one text"), ([1], r"texts\[0\]: got int")):
        with pytest.raises(InvalidInput, match=message):
            next(encode_text(session(), texts))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="got ndarray, expected a Volume"):
        next(zero_shot(session(), volume.voxels, [("a", "b")]))  # type: ignore[arg-type]
    assert strings(["", "é"])[1] == "é".encode()
    assert TEXT.dtype == "BYTES"
