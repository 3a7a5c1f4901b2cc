"""Models that do not load, each with its reason: what comes through the real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.text_format import Parse
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import ModelConfig

from ctclip_client.errors import InvalidInput
from ctclip_server import EmbeddedTriton
from ctclip_server.backends.shared.options import (
    ONNXRUNTIME,
    WITHOUT_EFFECT_IN_OPENVINO,
    ConfigError,
    check_fields,
    cuda_options,
    read_parameters,
)
from ctclip_server.backends.shared.signature import GraphTensor, check_tensors

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
    "pinned_memory": (
        {"extra": "optimization { input_pinned_memory { enable: false } }"},
        "optimization.input_pinned_memory.enable: got false, expected true",
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


TRITONS_OWN = (
    "name", "platform", "backend", "runtime", "version_policy.", "max_batch_size", "input.dims",
    "input.name", "input.data_type", "output.dims", "output.name", "output.data_type",
    "output.label_filename", "dynamic_batching.", "ensemble_scheduling.", "instance_group.name",
    "instance_group.count", "instance_group.kind", "instance_group.gpus",
    "instance_group.passive", "instance_group.host_policy", "default_model_filename",
    "metric_tags", "model_warmup.", "model_repository_agents.", "model_metrics.",
)  # fmt: skip
"""What Triton does or refuses by itself for any backend; a dot stands for all that is below."""
HONOURED = ("optimization.graph.level", "optimization.execution_accelerators.", "parameters")


def leaves(message: Descriptor, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a config, and a config in text that states it by another value than unset."""
    for field in message.fields:
        name = f"{path}{field.name}"
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            value = inner.fields_by_name["value"]
            some = '"v"' if value.message_type is None else "{}"
            key = '"k"' if inner.fields_by_name["key"].type == 9 else "1"
            yield name, f"{field.name} {{ key: {key} value: {some} }}"
        elif inner is not None:
            if not inner.fields:
                yield f"{name}.", f"{field.name} {{}}"
            for below, text in leaves(inner, f"{name}."):
                yield below, f"{field.name} {{ {text} }}"
        else:
            some = {9: '"v"', 8: "true", 14: "1"}.get(field.type, "1")
            yield name, f"{field.name}: {some}"


def stated(text: str) -> dict:
    """A config as Triton hands it to a backend."""
    fields = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}
    return MessageToDict(Parse(text, ModelConfig()), **fields)


def refusal(config: dict) -> str:
    try:
        check_fields(config, WITHOUT_EFFECT_IN_OPENVINO if config["backend"] == "openvino" else {})
        tensor = {"name": "X", "data_type": "TYPE_FP32", "dims": ["1"]}
        for kind in ("input", "output"):
            entries = [{**entry, **tensor} for entry in config[kind]] or [tensor]
            check_tensors({kind: entries}, kind, {"X": GraphTensor("float", (1,))})
    except ConfigError as error:
        return str(error)
    return ""


def test_every_field_of_a_config_is_tritons_own_or_refused_or_honoured():
    assert not refusal(stated(""))
    seen = set()
    for path, text in leaves(ModelConfig.DESCRIPTOR):
        switched = text.replace("enable: true", "enable: false") if "pinned" in path else text
        said = refusal(stated(switched))
        own = any(
            path == name or (name[-1] == "." and path.startswith(name)) for name in TRITONS_OWN
        )
        known = any(path.startswith(name) for name in HONOURED)
        assert not said if own else said or known, f"{path}: {said}"
        seen.add(path)
    assert len(seen) > 100


def test_fields_that_only_one_backend_has():
    for text in ("optimization { graph { level: 1 } }", CUDA):
        assert not refusal(stated(f'backend: "onnxruntime" {text}'))
        assert "not supported" in refusal(stated(f'backend: "openvino" {text}'))
    assert "cpu_execution" in refusal(stated(CUDA.replace("gpu", "cpu")))


CUDA = (
    "optimization { execution_accelerators { gpu_execution_accelerator "
    '{ name: "cuda" parameters { key: "use_tf32" value: "0" } } } }'
)


def test_what_cuda_gets_is_what_the_cpp_backend_would_give_it():
    search = 'parameters { key: "cudnn_conv_algo_search" value { string_value: "1" } }'

    def options(text: str) -> dict[str, str]:
        config = stated(f'backend: "onnxruntime" instance_group [ {{ kind: KIND_GPU }} ] {text}')
        assert not refusal(config)
        return cuda_options(config, read_parameters(config, ONNXRUNTIME), "1")

    plain = {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE"}
    assert options("") == options(CUDA) == plain
    assert options(CUDA.replace('"0"', '"1"')) == plain | {"use_tf32": "1"}
    assert options(search + CUDA) == plain | {"cudnn_conv_algo_search": "HEURISTIC"}
    stream = search.replace("cudnn_conv_algo_search", "do_copy_in_default_stream")
    limit = search.replace("cudnn_conv_algo_search", "gpu_mem_limit")
    arena = search.replace("cudnn_conv_algo_search", "arena_extend_strategy")
    assert options(stream + limit + arena) == plain | {
        "do_copy_in_default_stream": "1",
        "gpu_mem_limit": "1",
        "arena_extend_strategy": "kSameAsRequested",
    }
    other = CUDA.replace("use_tf32", "cudnn_conv_use_max_workspace")
    assert options(other) == plain | {"cudnn_conv_use_max_workspace": "0"}


@pytest.mark.parametrize(
    "option",
    [
        "arena_extend_strategy",
        "cudnn_conv_algo_search",
        "do_copy_in_default_stream",
        "gpu_mem_limit",
    ],
)
def test_what_the_cpp_backend_overwrites_is_refused_where_it_has_no_effect(option):
    said = refusal(stated(f'backend: "onnxruntime" {CUDA.replace("use_tf32", option)}'))
    assert f"{option}: got '0', expected none: it has no effect there" in said
    assert f"Put {option} under parameters" in said
