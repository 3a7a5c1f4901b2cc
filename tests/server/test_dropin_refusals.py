"""Models that do not load, each with its reason: what comes through the real server."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from ctclip_client.errors import InvalidInput
from ctclip_server import EmbeddedTriton

from .conftest import TinyModel, add_constant, write_python_model

FLOAT = TensorProto.FLOAT
X2 = ("X", FLOAT, ("batch", 2))
Y2 = ("Y", FLOAT, ("batch", 2))
OPENVINO = {"backend": "openvino", "config_inputs": [X2], "config_outputs": [Y2]}
FILE = 'default_model_filename: "model.onnx"\n'


def _copy(name, *, extra="", **options):
    node = helper.make_node("Identity", ["X"], ["Y"])
    return TinyModel(name, [node], [X2], [Y2], extra=FILE + extra, **options)


_ERROR = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError('no vocabulary\\nin this folder')
"""

# model name -> (what is odd about it, what the reason has to say)
CASES = {
    "input_type": (
        {"config_inputs": [("X", TensorProto.INT32, (-1, 2))]},
        "configuration expects datatype INT32 for input 'X', model provides FP32",
    ),
    "opset": (
        {"opset": 27},
        "opset 27: production's ONNX Runtime 1.28 knows up to IR 13, opset 26",
    ),
    "parameter": (
        {"extra": 'parameters { key: "execution_mode", value: { string_value: "1" } }'},
        "parameter execution_mode: got '1', expected none: the embedded server's onnxruntime",
    ),
    "accelerator": (
        {
            "extra": "optimization { execution_accelerators { "
            'gpu_execution_accelerator [ { name: "tensorrt" } ] } }'
        },
        "got 'tensorrt', expected 'cuda'",
    ),
    "damaged": ({}, "it is truncated"),
    "openvino_output": (
        OPENVINO | {"config_outputs": [("Y", FLOAT, (-1, 3))]},
        "tensor 'Y': the model expects 2 dimensions (shape [-1,2])",
    ),
    "openvino_gpu": (OPENVINO | {"kind": "KIND_MODEL"}, "supports only CPU device"),
    "openvino_batches": (
        {"max_batch_size": 4, "backend": "openvino"},
        "max_batch_size: got 4, expected 0",
    ),
    "openvino_damaged": (OPENVINO, "openvino error: "),
}
PYTHON_CASES = {
    "python_syntax": ("def broken(:\n", "SyntaxError: invalid syntax (model.py, line 1)"),
    "python_error": (_ERROR, "ValueError: no vocabulary in this folder"),
}
REASONS = {name: reason for name, (_, reason) in (CASES | PYTHON_CASES).items()}


@pytest.fixture(scope="module")
def reasons(tmp_path_factory) -> str:
    """Start one server with all of them: it must refuse, and say why for each."""
    repository = tmp_path_factory.mktemp("refused")
    for name, (options, _) in CASES.items():
        path = _copy(name, **options).write(repository)
        if name.endswith("damaged"):
            path.write_bytes(path.read_bytes()[:-20])
    for name, (source, _) in PYTHON_CASES.items():
        write_python_model(repository, name, source)
    add_constant("good", 1.0).write(repository)
    server = EmbeddedTriton(repository, startup_timeout_s=120)
    with pytest.raises(InvalidInput) as error, server:
        pass
    assert server.process_id is None
    return error.value.cause


@pytest.mark.parametrize("name", sorted(REASONS))
def test_a_contradiction_is_refused_with_its_reason(reasons, name):
    lines = [line for line in reasons.split("\n") if f"'{name}' does not load" in line]
    assert len(lines) == 1
    assert REASONS[name] in lines[0]
    assert "Traceback" not in lines[0]
    assert "Exception from" not in lines[0]


def test_models_that_would_load_are_not_named(reasons):
    assert "'good'" not in reasons
