"""Configs and files that contradict each other: refused, each with the C++ backend's reason."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper

from ctclip_client.errors import InvalidInput
from ctclip_server import EmbeddedTriton

FLOAT = TensorProto.FLOAT
X2 = ("X", FLOAT, ("batch", 2))
Y2 = ("Y", FLOAT, ("batch", 2))


def _copy(tiny, name, **options):
    return tiny["model"](name, [helper.make_node("Identity", ["X"], ["Y"])], [X2], [Y2], **options)


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


# model name -> (how to make it, what the reason has to say)
CASES = {
    "missing_input": (
        lambda tiny, name: tiny["model"](
            name,
            [helper.make_node("Add", ["X", "Z"], ["Y"])],
            [X2, ("Z", FLOAT, ("batch", 2))],
            [Y2],
            config_inputs=[X2],
        ),
        "configuration expects 1 inputs, model provides 2; not in the configuration: Z",
    ),
    "wrong_input": (
        lambda tiny, name: _copy(tiny, name, config_inputs=[("W", FLOAT, ("batch", 2))]),
        "unexpected inference input 'W' for model 'wrong_input', allowed inputs are: X",
    ),
    "unknown_output": (
        lambda tiny, name: _copy(tiny, name, config_outputs=[Y2, ("Q", FLOAT, (1,))]),
        "unexpected inference output 'Q' for model 'unknown_output', allowed outputs are: Y",
    ),
    "no_outputs": (
        lambda tiny, name: _copy(tiny, name, config_outputs=[]),
        "configuration states no outputs, model provides Y",
    ),
    "input_type": (
        lambda tiny, name: _copy(tiny, name, config_inputs=[("X", TensorProto.INT32, (-1, 2))]),
        "configuration expects datatype TYPE_INT32 for input 'X', model provides TYPE_FP32",
    ),
    "output_type": (
        lambda tiny, name: _copy(tiny, name, config_outputs=[("Y", TensorProto.DOUBLE, (-1, 2))]),
        "configuration expects datatype TYPE_FP64 for output 'Y', model provides TYPE_FP32",
    ),
    "bfloat": (
        lambda tiny, name: tiny["identity"](name, TensorProto.BFLOAT16, (2,)),
        "unsupported datatype TYPE_BF16 for input 'X'",
    ),
    "rank": (
        lambda tiny, name: _copy(tiny, name, config_inputs=[("X", FLOAT, (2,))]),
        "tensor 'X': the model expects 2 dimensions (shape [-1,2]) but the model configuration "
        "specifies 1 dimensions (shape [2])",
    ),
    "fixed_axis": (
        lambda tiny, name: _copy(tiny, name, config_inputs=[("X", FLOAT, (-1, 3))]),
        "the model expects 2 dimensions (shape [-1,2]) but the model configuration specifies 2 "
        "dimensions (shape [-1,3])",
    ),
    "free_for_fixed_axis": (
        lambda tiny, name: _copy(tiny, name, config_inputs=[("X", FLOAT, (-1, -1))]),
        "tensor 'X': the model expects",
    ),
    "output_not_exact": (
        lambda tiny, name: _copy(tiny, name, config_outputs=[("Y", FLOAT, (4, 2))]),
        "tensor 'Y': the model expects 2 dimensions (shape [-1,2])",
    ),
    "fixed_batch": (
        lambda tiny, name: tiny["identity"](name, FLOAT, (1, 2), max_batch_size=4),
        "for the model to support batching the shape should have at least 1 dimension and the "
        "first dimension must be -1; but shape expected by the model is [1,2]",
    ),
    "opset": (
        lambda tiny, name: _copy(tiny, name, opset=27),
        "opset 27 of ai.onnx is newer than production's ONNX Runtime 1.28 knows (up to 26)",
    ),
    "ir_version": (
        lambda tiny, name: _copy(tiny, name, ir_version=14),
        "Unsupported model IR version: 14",
    ),
    "execution_mode": (
        lambda tiny, name: _copy(
            tiny,
            name,
            extra='parameters { key: "execution_mode", value: { string_value: "7" } }',
        ),
        "Expected values for execution_mode are 0 or 1 but got 7",
    ),
    "thread_count": (
        lambda tiny, name: _copy(
            tiny,
            name,
            extra='parameters { key: "intra_op_thread_count", value: { string_value: "all" } }',
        ),
        "parameter intra_op_thread_count: got 'all', expected an integer",
    ),
    "accelerator": (
        lambda tiny, name: _copy(
            tiny,
            name,
            extra="optimization { execution_accelerators { "
            'cpu_execution_accelerator [ { name: "warp" } ] } }',
        ),
        "unknown Execution Accelerator 'warp' is requested",
    ),
    "ragged": (
        lambda tiny, name: tiny["identity"](
            name,
            FLOAT,
            ("n",),
            config_inputs=[],
            extra='input { name: "X", data_type: TYPE_FP32, dims: [ -1 ], '
            "allow_ragged_batch: true }",
        ),
        "ragged input 'X' is not supported by this drop-in backend",
    ),
    "python_syntax": (
        lambda tiny, name: _PythonModel(name, "def broken(:\n"),
        "SyntaxError: invalid syntax (model.py, line 1)",
    ),
    "python_error": (
        lambda tiny, name: _PythonModel(
            name,
            "class TritonPythonModel:\n"
            "    def initialize(self, args):\n"
            "        raise ValueError('no vocabulary\\nin this folder')\n",
        ),
        "ValueError: no vocabulary in this folder",
    ),
    "damaged": (_copy, "it is truncated"),
}


@pytest.fixture(scope="module")
def reasons(tmp_path_factory, tiny) -> str:
    """Start one server with all of them: it must refuse, and say why for each."""
    repository = tmp_path_factory.mktemp("refused")
    for name, (make, _) in CASES.items():
        path = make(tiny, name).write(repository)
        if name == "damaged":
            path.write_bytes(path.read_bytes()[:-20])
    tiny["add"]("good", 1.0).write(repository)
    server = EmbeddedTriton(repository, startup_timeout_s=120)
    with pytest.raises(InvalidInput) as error, server:
        pass
    assert server.process_id is None
    return error.value.cause


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_contradiction_is_refused_with_its_reason(reasons, name):
    reason = CASES[name][1]
    lines = [line for line in reasons.split("\n") if f"'{name}' does not load" in line]
    assert len(lines) == 1
    assert reason in lines[0]
    assert "Traceback" not in lines[0]


def test_models_that_would_load_are_not_blamed(reasons):
    assert "'good'" not in reasons
