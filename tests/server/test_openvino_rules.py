"""What the C++ OpenVINO backend accepts, converts and refuses, the drop-in does too."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from ctclip_client.errors import InvalidInput
from ctclip_server import EmbeddedTriton

FLOAT = TensorProto.FLOAT
X2 = ("X", FLOAT, ("batch", 2))
Y2 = ("Y", FLOAT, ("batch", 2))


def _openvino(tiny, name, *, extra="", **options):
    options = {"config_inputs": [X2], "config_outputs": [Y2], **options}
    return tiny["model"](
        name,
        options.pop("nodes", [helper.make_node("Add", ["X", "X"], ["Y"])]),
        options.pop("inputs", [X2]),
        options.pop("outputs", [Y2]),
        backend="openvino",
        extra='default_model_filename: "model.onnx"\n' + extra,
        **options,
    )


def _parameter(name, value):
    return f'parameters {{ key: "{name}", value: {{ string_value: "{value}" }} }}\n'


# model name -> (how to make it, what the reason has to say)
REFUSED = {
    "missing_input": (
        {"nodes": [helper.make_node("Add", ["X", "Z"], ["Y"])], "inputs": [X2, ("Z", FLOAT, (1,))]},
        "configuration expects 1 inputs, model provides 2",
    ),
    "wrong_input": (
        {"config_inputs": [("W", FLOAT, (-1, 2))]},
        "unexpected inference input 'W' for model 'wrong_input', allowed inputs are: X",
    ),
    "unknown_output": (
        {"config_outputs": [Y2, ("Q", FLOAT, (1,))]},
        "unexpected inference output 'Q' for model 'unknown_output', allowed outputs are: Y",
    ),
    "double": (
        {"config_inputs": [("X", TensorProto.DOUBLE, (-1, 2))]},
        "unsupported datatype TYPE_FP64 for input 'X'",
    ),
    "text": (
        {"config_outputs": [("Y", TensorProto.STRING, (-1, 2))]},
        "unsupported datatype TYPE_STRING for output 'Y'",
    ),
    "rank": (
        {"config_inputs": [("X", FLOAT, (2,))]},
        "tensor 'X': the model expects 2 dimensions (shape [-1,2]) but the model configuration "
        "specifies 1 dimensions (shape [2])",
    ),
    "free_for_fixed_axis": (
        {"config_inputs": [("X", FLOAT, (-1, -1))]},
        "(shape [-1,2]) but the model configuration specifies 2 dimensions (shape [-1,-1])",
    ),
    "wrong_output_axis": (
        {"config_outputs": [("Y", FLOAT, (-1, 3))]},
        "tensor 'Y': the model expects 2 dimensions (shape [-1,2])",
    ),
    "gpu": (
        {"extra": "instance_group [ { kind: KIND_MODEL } ]"},
        "supports only CPU device",
    ),
    "threads": (
        {"extra": _parameter("INFERENCE_NUM_THREADS", "-2")},
        "expected the parameter 'INFERENCE_NUM_THREADS' to be a non-negative number, got -2",
    ),
    "compilation": (
        {"extra": _parameter("COMPILATION_NUM_THREADS", "1")},
        "Unsupported property COMPILATION_NUM_THREADS by CPU plugin",
    ),
    "streams": (
        {"extra": _parameter("NUM_STREAMS", "many")},
        "expected the parameter 'NUM_STREAMS' to be either AUTO/NUMA/<int_value>, got many",
    ),
    "hint": (
        {"extra": _parameter("PERFORMANCE_HINT", "FAST")},
        "to be LATENCY/THROUGHPUT/CUMULATIVE_THROUGHPUT, got fast",
    ),
    "bf16": (
        {"extra": _parameter("HINT_BF16", "NO")},
        "expected the parameter 'HINT_BF16' to be YES, got no",
    ),
    "extension": (
        {"extra": _parameter("CPU_EXTENSION_PATH", "/nowhere/operators.so")},
        "failed to load",
    ),
    "damaged": ({}, "openvino error: "),
}


@pytest.fixture(scope="module")
def reasons(tmp_path_factory, tiny) -> str:
    """Start one server with all of them: it must refuse, and say why for each."""
    repository = tmp_path_factory.mktemp("refused")
    for name, (options, _) in REFUSED.items():
        path = _openvino(tiny, name, **options).write(repository)
        if name == "damaged":
            path.write_bytes(path.read_bytes()[:-20])
        if name == "gpu":
            config = path.parents[1] / "config.pbtxt"
            kind = "instance_group [ { kind: KIND_CPU, count: 1 } ]\n"
            config.write_text(config.read_text().replace(kind, ""))
    server = EmbeddedTriton(repository, startup_timeout_s=120)
    with pytest.raises(InvalidInput) as error, server:
        pass
    return error.value.cause


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_contradiction_is_refused_with_its_reason(reasons, name):
    lines = [line for line in reasons.split("\n") if f"'{name}' does not load" in line]
    assert len(lines) == 1
    assert REFUSED[name][1] in lines[0]
    assert "Traceback" not in lines[0]
    assert "Exception from" not in lines[0]


@pytest.fixture(scope="module")
def accepted(tmp_path_factory, tiny):
    """A server of models that the C++ backend takes, and its log."""
    repository = tmp_path_factory.mktemp("accepted")
    models = {
        "converted": {
            "config_inputs": [("X", TensorProto.INT32, (-1, 2))],
            "config_outputs": [("Y", TensorProto.INT32, (-1, 2))],
        },
        "fixed": {
            "max_batch_size": 4,
            "config_inputs": [("X", FLOAT, (2,))],
            "config_outputs": [("Y", FLOAT, (2,))],
        },
        "padded": {
            "max_batch_size": 4,
            "config_inputs": [("X", FLOAT, (2,))],
            "config_outputs": [("Y", FLOAT, (2,))],
            "extra": _parameter("ENABLE_BATCH_PADDING", "YES")
            + "dynamic_batching { max_queue_delay_microseconds: 300000 }",
        },
        "reshaped": {
            "inputs": [("X", FLOAT, (1, 2))],
            "outputs": [("Y", FLOAT, (1, 2))],
            "config_inputs": [("X", FLOAT, (-1, 5))],
            "config_outputs": [("Y", FLOAT, (-1, 5))],
            "extra": _parameter("RESHAPE_IO_LAYERS", "yes"),
        },
        "tuned": {
            "extra": _parameter("INFERENCE_NUM_THREADS", "1")
            + _parameter("NUM_STREAMS", "1")
            + _parameter("PERFORMANCE_HINT", "throughput")
            + _parameter("SKIP_OV_DYNAMIC_BATCHSIZE", "YES")
            + _parameter("INFERENCE_PRECISION", "bf16")
        },
    }
    for name, options in models.items():
        _openvino(tiny, name, **options).write(repository)
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with EmbeddedTriton(repository, startup_timeout_s=120, log=log) as server:
        yield server


@pytest.fixture(scope="module")
def ask(accepted, caller):
    return caller(accepted)


def test_a_data_type_that_is_not_the_graphs_is_converted(ask):
    got = ask("converted", X=np.array([[1, -7]], np.int32))
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, [[2, -14]])


def test_a_batch_other_than_the_maximum_is_refused_without_padding(ask):
    full = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.testing.assert_array_equal(ask("fixed", X=full), 2 * full)
    with pytest.raises(InferenceServerException, match="batch size '4', got '3'"):
        ask("fixed", X=full[:3])


def test_with_padding_every_batch_is_answered_alone_and_joined(ask):
    batches = [np.full((size, 2), size, np.float32) for size in (1, 2, 1, 3, 4)]
    for batch in batches:
        np.testing.assert_array_equal(ask("padded", X=batch), 2 * batch)
    for batch, got in zip(batches, ask.together("padded", batches), strict=True):
        np.testing.assert_array_equal(got, 2 * batch)


def test_the_configs_axes_replace_the_graphs_when_asked(ask):
    sent = np.arange(15, dtype=np.float32).reshape(3, 5)
    np.testing.assert_array_equal(ask("reshaped", X=sent), 2 * sent)


def test_nothing_at_all_is_the_callers_error(ask):
    with pytest.raises(InferenceServerException, match="no axis of size 0") as error:
        ask("tuned", X=np.zeros((0, 2), np.float32))
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_settings_are_passed_on_and_those_without_effect_are_logged(accepted):
    log = accepted.log.read_text()
    assert "'tuned' computes in f32 with OpenVINO" in log
    assert "'tuned' ignores SKIP_OV_DYNAMIC_BATCHSIZE" in log
    assert "'tuned' ignores INFERENCE_PRECISION: unknown" in log
    assert "ignores NUM_STREAMS" not in log
    assert ", 1 threads, 1 streams" in log
