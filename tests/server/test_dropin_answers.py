"""The drop-in onnxruntime backend inside the real server: its answers and its errors."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException


def test_every_data_type_comes_back_bit_for_bit(ask):
    rng = np.random.default_rng(0)
    sent = {
        "VOLUME": rng.integers(-1024, 3071, (3, 4, 5), dtype=np.int16),
        "SPACING": rng.uniform(0.5, 5.0, 3),
        "HALF": rng.normal(size=(2, 2)).astype(np.float16),
        "FLAG": np.array([True]),
    }
    result = ask.client.infer("mixed", ask.inputs(**sent))
    for name in ("VOLUME", "SPACING", "HALF"):
        got = result.as_numpy(f"{name}_OUT")
        assert got.dtype == sent[name].dtype
        np.testing.assert_array_equal(got, sent[name])
    np.testing.assert_array_equal(result.as_numpy("FLAG_OUT"), [False])


@pytest.mark.parametrize(("model", "constant"), [("renamed", 5.0), ("with_openvino", 3.0)])
def test_the_default_model_filename_of_the_config_is_executed(ask, model, constant):
    for size in (2, 1):
        got = ask(model, X=np.zeros((size, 2), np.float32))
        np.testing.assert_array_equal(got, np.full((size, 2), constant, np.float32))


def test_only_the_outputs_asked_for_are_sent(ask):
    from tritonclient import grpc

    sent = {
        "VOLUME": np.zeros((1, 1, 1), np.int16),
        "SPACING": np.ones(3),
        "HALF": np.zeros((2, 2), np.float16),
        "FLAG": np.array([True]),
    }
    wanted = [grpc.InferRequestedOutput("SPACING_OUT")]
    result = ask.client.infer("mixed", ask.inputs(**sent), outputs=wanted)
    assert result.as_numpy("VOLUME_OUT") is None
    np.testing.assert_array_equal(result.as_numpy("SPACING_OUT"), np.ones(3))


def test_requests_joined_by_the_dynamic_batcher_equal_single_ones(ask):
    rng = np.random.default_rng(1)
    batches = [rng.integers(0, 8, (size, 3)) for size in (1, 2, 1, 3)]
    alone = [ask("table", X=batch) for batch in batches]
    inferences, executions = ask.executions("table")
    joined = ask.together("table", batches)
    inferences_after, executions_after = ask.executions("table")
    # 1 + 2 + 1 + 3 items; fewer executions than requests shows that some were joined.
    assert inferences_after - inferences == 7
    assert executions_after - executions < len(batches)
    for one, other in zip(alone, joined, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_that_fails_fails_its_whole_batch(ask):
    """As in Triton's C++ backend: who shares a batch with a bad request shares its error."""
    good, bad = np.array([[1, 2, 3]]), np.array([[1, 2, 8]])
    _, executions = ask.executions("table")
    answers = ask.together("table", [good, bad, good])
    assert ask.executions("table")[1] - executions < 3
    failed = [answer for answer in answers if isinstance(answer, InferenceServerException)]
    assert answers[1] in failed
    assert len(failed) > 1
    for error in failed:
        assert error.status() == "StatusCode.INTERNAL"
        assert error.message().startswith("onnx runtime error 2: ")
        assert "indices" in error.message()
        assert "\n" not in error.message()


def test_a_good_request_after_a_bad_one_gets_the_same_bits(ask):
    good = np.array([[7, 0, 5]])
    before = ask("table", X=good)
    with pytest.raises(InferenceServerException):
        ask("table", X=np.array([[0, 0, 99]]))
    np.testing.assert_array_equal(ask("table", X=good), before)


@pytest.mark.parametrize(
    ("model", "array"),
    [
        ("renamed", np.zeros((1, 3), np.float32)),  # a fixed axis
        ("renamed", np.zeros((5, 2), np.float32)),  # more than max_batch_size
        ("renamed", np.zeros((1, 2), np.float64)),  # another type
        ("renamed", np.zeros((0, 2), np.float32)),  # nothing at all
        ("with_openvino", np.zeros((0, 2), np.float32)),
        ("renamed", np.zeros((1, 2, 1), np.float32)),  # another rank
    ],
    ids=["axis", "batch", "type", "empty", "empty, OpenVINO", "rank"],
)
def test_a_request_against_the_config_is_the_callers_error(ask, model, array):
    with pytest.raises(InferenceServerException) as error:
        ask(model, X=array)
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
