"""Tiny ONNX models, and one real server for all tests that only ask questions."""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc
from tritonclient.utils import np_to_triton_dtype

from ctclip_server import EmbeddedTriton

FLOAT = TensorProto.FLOAT
Info = tuple[str, int, Sequence[int | str]]


@dataclass
class TinyModel:
    """A graph of a few nodes with its config; `config_*` make the config differ from the graph."""

    name: str
    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[Info]
    outputs: Sequence[Info]
    max_batch_size: int = 0
    initializers: Sequence[onnx.TensorProto] = ()
    config_inputs: Sequence[Info] | None = None
    config_outputs: Sequence[Info] | None = None
    extra: str = ""
    opset: int = 20
    ir_version: int = 10
    file: str = "model.onnx"
    backend: str = "onnxruntime"
    kind: str = "KIND_CPU"

    def graph(self) -> bytes:
        graph = helper.make_graph(
            list(self.nodes),
            self.name,
            [helper.make_tensor_value_info(*info) for info in self.inputs],
            [helper.make_tensor_value_info(*info) for info in self.outputs],
            list(self.initializers),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, ir_version=self.ir_version, opset_imports=opsets)
        return model.SerializeToString()

    def config(self) -> str:
        batched = self.max_batch_size > 0
        lines = [
            f'name: "{self.name}"',
            f'backend: "{self.backend}"',
            f"max_batch_size: {self.max_batch_size}",
            f"instance_group [ {{ kind: {self.kind}, count: 1 }} ]",
        ]
        for kind, graph, stated in (
            ("input", self.inputs, self.config_inputs),
            ("output", self.outputs, self.config_outputs),
        ):
            for name, dtype, shape in graph if stated is None else stated:
                axes = shape[1:] if batched and stated is None else shape
                dims = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in axes)
                triton = np_to_triton_dtype(helper.tensor_dtype_to_np_dtype(dtype))
                lines.append(
                    f'{kind} [ {{ name: "{name}", data_type: TYPE_{triton}, dims: [ {dims} ] }} ]'
                )
        return "\n".join([*lines, self.extra, ""])

    def write(self, repository: Path) -> Path:
        folder = repository / self.name / "1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.file).write_bytes(self.graph())
        (repository / self.name / "config.pbtxt").write_text(self.config())
        return folder / self.file


def add_constant(name: str, constant: float, **options: object) -> TinyModel:
    """Y = X + constant for X FP32 [batch, 2]."""
    return TinyModel(
        name,
        [helper.make_node("Add", ["X", "C"], ["Y"])],
        [("X", FLOAT, ("batch", 2))],
        [("Y", FLOAT, ("batch", 2))],
        max_batch_size=4,
        initializers=[helper.make_tensor("C", FLOAT, (), [constant])],
        **options,
    )


def gather(name: str, **options: object) -> TinyModel:
    """Y = table[X], a table of 8 rows: an index of 8 or more fails inside ONNX Runtime."""
    table = np.linspace(0, 1, 8 * 3, dtype=np.float32).reshape(8, 3)
    return TinyModel(
        name,
        [helper.make_node("Gather", ["TABLE", "X"], ["Y"])],
        [("X", TensorProto.INT64, ("batch", "n"))],
        [("Y", FLOAT, ("batch", "n", 3))],
        max_batch_size=8,
        initializers=[onnx.numpy_helper.from_array(table, "TABLE")],
        **options,
    )


class Caller:
    """A Triton client that takes and gives arrays."""

    def __init__(self, url: str) -> None:
        self.client = grpc.InferenceServerClient(url)

    def inputs(self, **arrays: np.ndarray) -> list[grpc.InferInput]:
        tensors = []
        for name, array in arrays.items():
            tensor = grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    def __call__(self, model: str, output: str = "Y", **arrays: np.ndarray) -> np.ndarray:
        result = self.client.infer(model, self.inputs(**arrays))
        return result.as_numpy(output)

    def together(self, model: str, arrays: Sequence[np.ndarray]) -> list[object]:
        """Send all at once (input X, output Y); an answer is an array or the exception."""
        answers: dict[int, object] = {}

        def keep(index: int) -> Callable[..., None]:
            def callback(result: grpc.InferResult, error: Exception | None) -> None:
                answers[index] = error if error is not None else result.as_numpy("Y")

            return callback

        for index, array in enumerate(arrays):
            self.client.async_infer(model, self.inputs(X=array), callback=keep(index))
        deadline = time.monotonic() + 60
        while len(answers) < len(arrays) and time.monotonic() < deadline:
            time.sleep(0.01)
        return [answers[index] for index in range(len(arrays))]

    def executions(self, model: str) -> tuple[int, int]:
        """(inferences asked for, executions made) so far."""
        stats = self.client.get_inference_statistics(model).model_stats[0]
        return stats.inference_count, stats.execution_count


@pytest.fixture(scope="session")
def caller() -> Iterator[Callable[[EmbeddedTriton | str], Caller]]:
    made: list[Caller] = []

    def make(server: EmbeddedTriton | str) -> Caller:
        made.append(Caller(server if isinstance(server, str) else server.grpc_url))
        return made[-1]

    yield make
    for each in made:
        each.client.close()


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    # The blank is on purpose: Triton starts its stubs through a shell without quotes.
    repository = tmp_path_factory.mktemp("model repository") / "zoo @ models"
    tensors = [
        ("VOLUME", TensorProto.INT16, ("z", "x", "y")),
        ("SPACING", TensorProto.DOUBLE, (3,)),
        ("HALF", TensorProto.FLOAT16, (2, 2)),
        ("FLAG", TensorProto.BOOL, (1,)),
    ]
    mixed = TinyModel(
        "mixed",
        [
            helper.make_node("Not" if name == "FLAG" else "Identity", [name], [f"{name}_OUT"])
            for name, _, _ in tensors
        ],
        tensors,
        [(f"{name}_OUT", dtype, shape) for name, dtype, shape in tensors],
        extra='parameters [ { key: "intra_op_thread_count", value: { string_value: "1" } },'
        '{ key: "enable_mem_arena", value: { string_value: "1" } },'
        '{ key: "memory.enable_memory_arena_shrinkage", value: { string_value: "cpu:0" } } ]\n'
        "optimization { graph { level: -1 } execution_accelerators { gpu_execution_accelerator [ "
        '{ name: "cuda", parameters { key: "use_tf32", value: "0" } } ] } }',
    )
    renamed = add_constant(
        "renamed", 5.0, file="weights.onnx", extra='default_model_filename: "weights.onnx"'
    )
    with_openvino = add_constant(
        "with_openvino",
        3.0,
        file="weights.onnx",
        backend="openvino",
        extra='default_model_filename: "weights.onnx"\n'
        'parameters { key: "NUM_STREAMS", value: { string_value: "1" } }',
    )
    with_openvino.max_batch_size = 0
    batching = "dynamic_batching { max_queue_delay_microseconds: 300000 }"
    for model in (mixed, renamed, with_openvino, gather("table", extra=batching)):
        model.write(repository)
    log = tmp_path_factory.mktemp("log") / "triton@here.log"
    with EmbeddedTriton(repository, startup_timeout_s=120, log=log) as server:
        yield server


@pytest.fixture(scope="session")
def ask(zoo: EmbeddedTriton, caller: Callable[[EmbeddedTriton], Caller]) -> Caller:
    return caller(zoo)


@dataclass(frozen=True)
class Traces:
    """What a server of one identity leaves on the machine while it lives."""

    def of(self, process_id: int) -> str:
        """The identity of the server with that process id: part of every name it uses."""
        arguments = psutil.Process(process_id).cmdline()
        return next(part for part in arguments if part.startswith("--id=")).removeprefix("--id=")

    def left(self, identity: str) -> list[str]:
        found = [str(path) for path in Path("/dev/shm").glob(f"{identity}*")]  # noqa: S108
        found += [str(path) for path in Path(tempfile.gettempdir()).glob(f"{identity}*")]
        commands = (
            " ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])
        )
        return found + [command for command in commands if identity in command]

    def wait_until_gone(self, identity: str, timeout_s: float = 60.0) -> list[str]:
        deadline = time.monotonic() + timeout_s
        while (left := self.left(identity)) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


@pytest.fixture(scope="session")
def traces() -> Traces:
    return Traces()


@pytest.fixture(scope="session")
def fetch() -> Callable[[str, str], str]:
    """GET from host:port, past any proxy; the answer has to be good."""

    def get(url: str, path: str) -> str:
        connection = http.client.HTTPConnection(url, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode("utf-8")
        finally:
            connection.close()

    return get


# Only this room's command: the test shall not depend on what else is installed.
_SERVE = """
import sys
from importlib.metadata import EntryPoint
from ctclip_client.cli import program as cli
from ctclip_server.cli import serve
serve.SOON_S = 600.0  # however slow the machine is
cli.entry_points = lambda group: [EntryPoint("serve", "ctclip_server.cli.serve", group)]
sys.exit(cli.main(["serve", *sys.argv[1:]]))
"""


@pytest.fixture
def serve() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `ctclip serve` with free ports, in a process of its own."""
    with contextlib.ExitStack() as started:

        def start(*arguments: object) -> subprocess.Popen[str]:
            ports = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, *ports, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # A signal inside of open() leaves a file to the collector, whoever calls it.
                env={**os.environ, "PYTHONWARNINGS": "error,default::ResourceWarning"},
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


def write_python_model(repository: Path, name: str, source: str) -> None:
    """A model of the `python` backend whose file is `source`."""
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(source)
    (repository / name / "config.pbtxt").write_text(
        'backend: "python"\n'
        'input [ { name: "X", data_type: TYPE_FP32, dims: [ 2 ] } ]\n'
        'output [ { name: "Y", data_type: TYPE_FP32, dims: [ 2 ] } ]\n'
    )
