"""Models that do not load, each with its reason: what comes through the real server."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from ctclip_client.errors import InvalidInput
from ctclip_server import EmbeddedTriton

FLOAT = TensorProto.FLOAT
X2 = ("X", FLOAT, ("batch", 2))
Y2 = ("Y", FLOAT, ("batch", 2))
OPENVINO = {"backend": "openvino", "config_inputs": [X2], "config_outputs": [Y2]}
FILE = 'default_model_filename: "model.onnx"\n'


def _copy(tiny, name, *, extra="", **options):
    node = helper.make_node("Identity", ["X"], ["Y"])
    return tiny["model"](name, [node], [X2], [Y2], extra=FILE + extra, **options)


def _parameter(name, value):
    return f'parameters {{ key: "{name}", value: {{ string_value: "{value}" }} }}\n'


class _PythonModel:
    """A model of the `python` backend whose file is `source`."""

    def __init__(self, name: str, source: str) -> None:
        self.name, self.source = name, source

    def write(self, repository):
        folder = repository / self.name / "1"
        folder.mkdir(parents=True)
        (repository / self.name / "config.pbtxt").write_text(
            'backend: "python"\n'
            'input [ { name: "X", data_type: TYPE_FP32, dims: [ 2 ] } ]\n'
            'output [ { name: "Y", data_type: TYPE_FP32, dims: [ 2 ] } ]\n'
        )
        (folder / "model.py").write_text(self.source)
        return folder / "model.py"


_ERROR = """
class TritonPythonModel:
    def initialize(self, args):
        raise ValueError('no vocabulary\\nin this folder')
"""

# model name -> (how to make it, what the reason has to say)
CASES = {
    "input_type": (
        lambda tiny, name: _copy(tiny, name, config_inputs=[("X", TensorProto.INT32, (-1, 2))]),
        "configuration expects datatype INT32 for input 'X', model provides FP32",
    ),
    "opset": (
        lambda tiny, name: _copy(tiny, name, opset=27),
        "opset 27: production's ONNX Runtime 1.28 knows up to IR 13, opset 26",
    ),
    "parameter": (
        lambda tiny, name: _copy(tiny, name, extra=_parameter("execution_mode", "1")),
        "parameter execution_mode: got '1', expected none: the embedded server's onnxruntime",
    ),
    "accelerator": (
        lambda tiny, name: _copy(
            tiny,
            name,
            extra="optimization { execution_accelerators { "
            'gpu_execution_accelerator [ { name: "tensorrt" } ] } }',
        ),
        "got 'tensorrt', expected 'cuda'",
    ),
    "damaged": (_copy, "it is truncated"),
    "openvino_output": (
        lambda tiny, name: _copy(
            tiny, name, **OPENVINO | {"config_outputs": [("Y", FLOAT, (-1, 3))]}
        ),
        "tensor 'Y': the model expects 2 dimensions (shape [-1,2])",
    ),
    "openvino_gpu": (
        lambda tiny, name: _copy(tiny, name, kind="KIND_MODEL", **OPENVINO),
        "supports only CPU device",
    ),
    "openvino_batches": (
        lambda tiny, name: _copy(tiny, name, max_batch_size=4, backend="openvino"),
        "max_batch_size: got 4, expected 0",
    ),
    "openvino_damaged": (
        lambda tiny, name: _copy(tiny, name, **OPENVINO),
        "openvino error: ",
    ),
    "python_syntax": (
        lambda tiny, name: _PythonModel(name, "def broken(:\n"),
        "SyntaxError: invalid syntax (model.py, line 1)",
    ),
    "python_error": (
        lambda tiny, name: _PythonModel(name, _ERROR),
        "ValueError: no vocabulary in this folder",
    ),
}


@pytest.fixture(scope="module")
def reasons(tmp_path_factory, tiny) -> str:
    """Start one server with all of them: it must refuse, and say why for each."""
    repository = tmp_path_factory.mktemp("refused")
    for name, (make, _) in CASES.items():
        path = make(tiny, name).write(repository)
        if name.endswith("damaged"):
            path.write_bytes(path.read_bytes()[:-20])
    tiny["add"]("good", 1.0).write(repository)
    server = EmbeddedTriton(repository, startup_timeout_s=120)
    with pytest.raises(InvalidInput) as error, server:
        pass
    assert server.process_id is None
    return error.value.cause


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_contradiction_is_refused_with_its_reason(reasons, name):
    lines = [line for line in reasons.split("\n") if f"'{name}' does not load" in line]
    assert len(lines) == 1
    assert CASES[name][1] in lines[0]
    assert "Traceback" not in lines[0]
    assert "Exception from" not in lines[0]


def test_models_that_would_load_are_not_blamed(reasons):
    assert "'good'" not in reasons
