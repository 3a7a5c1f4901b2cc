"""The drop-in backends' parts that need no server."""

from __future__ import annotations

import re

import numpy as np
import pytest

import ctclip_server
from ctclip_server.backends.shared.options import (
    ONNXRUNTIME,
    OPENVINO,
    ConfigError,
    check_fields,
    graph_level,
    read_parameters,
)
from ctclip_server.backends.shared.rounds import RefusedError, split
from ctclip_server.backends.shared.signature import FREE, GraphTensor, check_tensors


def test_the_package_offers_one_name():
    assert ctclip_server.__all__ == ["EmbeddedTriton"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ctclip_server.nothing  # noqa: B018


# --- rounds ---


def test_an_output_that_is_not_batched_is_refused():
    with pytest.raises(RefusedError, match="first axis is not the batch"):
        split({"Y": np.zeros((1, 3))}, [1, 1])


# --- options ---


def _config(backend="onnxruntime", **parameters):
    stated = {name: {"string_value": value} for name, value in parameters.items()}
    return {"name": "any", "backend": backend, "parameters": stated}


def test_every_known_parameter_is_read():
    config = _config(
        intra_op_thread_count="3", inter_op_thread_count="0", enable_mem_arena="0",
        cudnn_conv_algo_search="1",
    )  # fmt: skip
    config["parameters"]["memory.enable_memory_arena_shrinkage"] = {"string_value": "cpu:0"}
    assert read_parameters(config, ONNXRUNTIME) == {
        "intra_op_thread_count": 3, "inter_op_thread_count": 0, "enable_mem_arena": False,
        "cudnn_conv_algo_search": "HEURISTIC", "memory.enable_memory_arena_shrinkage": "cpu:0",
    }  # fmt: skip
    exported = _config("openvino", PERFORMANCE_HINT="LATENCY", NUM_STREAMS="1", HINT_BF16="YES")
    assert read_parameters(exported, OPENVINO) == {
        "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "HINT_BF16": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("known", "name", "value", "expected"),
    [
        (ONNXRUNTIME, "execution_mode", "1", "expected none"),  # of the C++ backend
        (ONNXRUNTIME, "unheard_of", "1", "knows intra_op_thread_count, inter_op_thread_count, "),
        (ONNXRUNTIME, "intra_op_thread_count", "all", "got 'all', expected a whole number"),
        (ONNXRUNTIME, "inter_op_thread_count", "-1", "expected a whole number"),
        (ONNXRUNTIME, "enable_mem_arena", "", "got '', expected 0 or 1 or false or true"),
        (OPENVINO, "CPU_EXTENSION_PATH", "a.so", "knows HINT_BF16, NUM_STREAMS, PERFORMANCE_HINT"),
        (OPENVINO, "INFERENCE_NUM_THREADS", "2", "expected none"),
        (OPENVINO, "NUM_STREAMS", "many", "expected a whole number"),
        (OPENVINO, "PERFORMANCE_HINT", "FAST", "expected LATENCY or THROUGHPUT"),
        (OPENVINO, "HINT_BF16", "NO", "expected YES"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(known, name, value, expected):
    with pytest.raises(ConfigError, match=f"parameter {name}: .*{re.escape(expected)}"):
        read_parameters(_config(**{name: value}), known)


@pytest.mark.parametrize(
    ("level", "name"), [(None, "all"), (0, "all"), (-1, "basic"), (1, "extended"), (2, "none")]
)
def test_graph_levels(level, name):
    config = {} if level is None else {"optimization": {"graph": {"level": level}}}
    assert graph_level(config) == name
    with pytest.raises(ConfigError, match=r"graph\.level: got 3, expected one of 0, -1, 1, 2"):
        graph_level({"optimization": {"graph": {"level": 3}}})


def _accelerators(**lists):
    return {"optimization": {"execution_accelerators": lists}}


def test_cuda_is_accepted_with_its_parameters():
    """They have no effect on the CPU, and one config shall serve both."""
    cuda = {"name": "cuda", "parameters": {"cudnn_conv_use_max_workspace": "0"}}
    check_fields(_accelerators(gpu_execution_accelerator=[cuda]))
    check_fields({"optimization": {"input_pinned_memory": {"enable": True}}})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (_accelerators(gpu_execution_accelerator=[{"name": "tensorrt"}]), "got 'tensorrt'"),
        (_accelerators(cpu_execution_accelerator=[{"name": "openvino"}]), "cpu_execution_acc"),
        ({"model_operations": {"op_library_filename": ["a.so"]}}, "op_library_filename"),
        ({"sequence_batching": {"direct": {}}}, "sequence_batching"),
    ],
)
def test_fields_that_are_not_implemented_are_refused(config, named):
    with pytest.raises(ConfigError, match=named):
        check_fields(config)


# --- signature ---

GRAPH = {"X": GraphTensor("float", (FREE, 2))}
X = {"name": "X", "data_type": "TYPE_FP32", "dims": ["-1", "2"]}


@pytest.mark.parametrize("graph", [GRAPH, {"X": GraphTensor("f32", (FREE, 2))}])
def test_config_and_graph_that_agree(graph):
    check_tensors({"input": [X]}, "input", graph)
    check_tensors({"input": [{**X, "dims": [7, 2]}]}, "input", graph)
    check_tensors({"output": [X]}, "output", {**graph, "Y": graph["X"]}, exact=True)
    batched = {"max_batch_size": 4, "input": [{**X, "dims": [2]}]}
    check_tensors(batched, "input", graph)


@pytest.mark.parametrize(
    ("entries", "graph", "reason"),
    [
        (
            [X], GRAPH | {"Z": GRAPH["X"]},
            "configuration expects 1 inputs, model provides 2; not in the configuration: Z",
        ),
        ([], {}, "configuration states no inputs"),
        ([{**X, "name": "W"}], GRAPH, "unexpected inference input 'W', allowed inputs are: X"),
        (
            [{**X, "data_type": "TYPE_INT32"}], GRAPH,
            "expects datatype INT32 for input 'X', model provides FP32",
        ),
        (
            [{**X, "data_type": "TYPE_STRING"}], {"X": GraphTensor("string", (FREE, 2))},
            "expects datatype STRING for input 'X', model provides string",
        ),
        (
            [{**X, "dims": [2]}], GRAPH,
            "tensor 'X': the model expects 2 dimensions (shape [-1,2]) but the model "
            "configuration specifies 1 dimensions (shape [2])",
        ),
        ([{**X, "dims": [-1, 3]}], GRAPH, "specifies 2 dimensions (shape [-1,3])"),
        ([{**X, "dims": [-1, -1]}], GRAPH, "tensor 'X': the model expects"),
        ([{**X, "allow_ragged_batch": True}], GRAPH, "allow_ragged_batch is not supported"),
        ([{**X, "optional": True}], GRAPH, "optional is not supported"),
        ([{**X, "reshape": {"shape": [2]}}], GRAPH, "reshape is not supported"),
    ],
)  # fmt: skip
def test_a_contradiction_is_refused_with_its_reason(entries, graph, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        check_tensors({"input": entries}, "input", graph)


def test_an_outputs_free_axis_has_to_be_stated_where_it_counts():
    stated = {"output": [{**X, "dims": [4, 2]}]}
    check_tensors(stated, "output", GRAPH)
    with pytest.raises(ConfigError, match=r"\(shape \[-1,2\]\)"):
        check_tensors(stated, "output", GRAPH, exact=True)


@pytest.mark.parametrize("dims", [(1, 2), ()])
def test_batches_need_a_free_first_axis(dims):
    config = {"max_batch_size": 4, "input": [{**X, "dims": [2]}]}
    with pytest.raises(ConfigError, match="the first dimension must be -1"):
        check_tensors(config, "input", {"X": GraphTensor("float", dims)})
