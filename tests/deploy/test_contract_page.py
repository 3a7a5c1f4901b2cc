"""docs/contract.md: equal to its generator, and true. Its examples are run as they stand there."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, json_format
from numpy.typing import NDArray
from tritonclient.grpc import (
    InferenceServerClient,
    InferInput,
    InferRequestedOutput,
    model_config_pb2,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import InferenceServerException

from ctclip_client import Client, Volume
from ctclip_client.contract import (
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MODELS,
    PATHOLOGIES,
    TEXT_EMBEDDING_ENSEMBLE,
    ZERO_SHOT,
)
from ctclip_client.contract_page import REFUSALS, render
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from .support import ROOT, need

PAGE = ROOT / "docs" / "contract.md"
ENTRIES = (*ENSEMBLES, *CLASSFINE_ENSEMBLES, *MODELS, *CLASSFINE_MODELS)
# As in the examples.
SPACING_MM = (2.5, 0.7, 0.7)
RESCALE = (1.0, -1024.0)


def example(name: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    return str(code)


@pytest.fixture(scope="module")
def voxels(golden: Any) -> NDArray[np.int16]:
    """(z, x, y), three different sizes: a swap of axes would be noticed."""
    stored = chest_phantom(golden.geometry).voxels
    assert len(set(stored.shape)) == 3
    return stored


@pytest.fixture
def folder(voxels: NDArray[np.int16], tmp_path: Path) -> Path:
    """A working folder with the files that the examples read."""
    np.save(tmp_path / "volume.npy", voxels)
    (tmp_path / "volume.raw").write_bytes(voxels.astype("<i2").tobytes())
    return tmp_path


@pytest.fixture
def client(server: EmbeddedTriton) -> Iterator[Client]:
    with Client(server.grpc_url) as triton:
        yield triton


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run_python(code: str, server: EmbeddedTriton, folder: Path) -> list[tuple[float, str]]:
    (folder / "example.py").write_text(code.replace("localhost:8001", server.grpc_url))
    printed = run([sys.executable, "example.py"], folder).splitlines()
    return [(float(number), name) for number, name in (line.split("  ", 1) for line in printed)]


def run_shell(code: str, server: EmbeddedTriton, folder: Path) -> dict[str, Any]:
    need("curl")
    script = code.replace("localhost:8000", server.http_url)
    answer = json.loads(run(["sh", "-euc", script], folder))
    assert "outputs" in answer, answer
    return {tensor["name"]: tensor for tensor in answer["outputs"]}


def test_the_page_is_what_the_generator_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "Write it again: python -m ctclip_client.contract_page > docs/contract.md"
    )


def test_everything_of_the_contract_is_on_the_page() -> None:
    text = render()
    for entry in ENTRIES:
        (row,) = re.findall(rf"^\| `{entry.name}` \|.*$", text, re.MULTILINE)
        for tensor in (*entry.inputs, *entry.outputs):
            assert f"{tensor.name} {tensor.dtype} [" in row


def test_the_text_names_tensors_of_the_contract_only() -> None:
    known = {tensor.name for entry in ENTRIES for tensor in (*entry.inputs, *entry.outputs)}
    assert set(re.findall(r"\*\*([A-Z_]+)\*\*", render())) <= known
    names = {entry.name for entry in ENTRIES}
    assert set(re.findall(r"`(ctclip_(?!client)\w+)`", render())) <= names


def test_python_example(
    server: EmbeddedTriton, client: Client, folder: Path, voxels: NDArray[np.int16]
) -> None:
    expected = client.pathologies(Volume.from_array(voxels, SPACING_MM, RESCALE))
    printed = run_python(example("python"), server, folder)
    assert [name for _, name in printed] == list(expected.findings)
    np.testing.assert_allclose(
        [value for value, _ in printed], expected.probabilities, rtol=0, atol=1e-6
    )


def test_example_with_more_prompts_than_fit(
    server: EmbeddedTriton, client: Client, folder: Path, voxels: NDArray[np.int16]
) -> None:
    pairs = [(f"Nodule {n} is present.", f"No nodule {n}.") for n in range(40)]
    lines = [sentence for pair in pairs for sentence in pair]
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    printed = run_python(example("python") + example("many-prompts"), server, folder)[-40:]
    assert [name for _, name in printed] == lines[::2]
    expected = client.zero_shot(Volume.from_array(voxels, SPACING_MM, RESCALE), pairs)
    np.testing.assert_allclose(
        [value for value, _ in printed], expected.probabilities, rtol=0, atol=1e-6
    )


def test_curl_example(
    server: EmbeddedTriton, client: Client, folder: Path, voxels: NDArray[np.int16]
) -> None:
    shape = ",".join(map(str, voxels.shape))
    code, count = re.subn(r"^shape=[\d,]+", f"shape={shape}", example("curl"))
    assert count == 1
    outputs = run_shell(code, server, folder)
    expected = client.pathologies(Volume.from_array(voxels, SPACING_MM, RESCALE))
    np.testing.assert_allclose(
        outputs["PROBABILITIES"]["data"], expected.probabilities, rtol=0, atol=1e-6
    )
    release = json.loads(outputs["PROVENANCE"]["data"][0])
    assert release["release"] == expected.provenance.release


def test_curl_example_with_bytes_in_the_answer(
    server: EmbeddedTriton, client: Client, folder: Path
) -> None:
    advice = '"parameters":{"binary_data_output":true}'
    assert f"`{advice}` beside `inputs`" in PAGE.read_text(encoding="utf-8")
    code = example("curl-text").replace('\'{"inputs"', "'{" + advice + ',"inputs"')
    code = code.replace("localhost:8000", server.http_url)
    run(["sh", "-euc", f"{code.rstrip()} --dump-header headers --output answer"], folder)
    headers = (folder / "headers").read_text().lower()
    (length,) = re.findall(r"^inference-header-content-length: (\d+)", headers, re.MULTILINE)
    got = np.frombuffer((folder / "answer").read_bytes()[int(length) :], "<f4")
    expected = client.encode_text(["Nodule is present.", "No effusion."])
    np.testing.assert_allclose(got, expected.ravel(), rtol=0, atol=1e-6)


def test_curl_example_with_texts(server: EmbeddedTriton, client: Client, folder: Path) -> None:
    embedding = run_shell(example("curl-text"), server, folder)["TEXT_EMBEDDING"]
    expected = client.encode_text(["Nodule is present.", "No effusion."])
    got = np.reshape(embedding["data"], embedding["shape"])
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_message_of_the_grpcurl_example(
    server: EmbeddedTriton, client: Client, folder: Path
) -> None:
    """The shell and the message are real, the program is not: a stand-in prints its arguments."""
    stand_in = 'grpcurl() { for argument; do printf "%s\\0" "$argument"; done; }\n'
    printed = run(["sh", "-euc", stand_in + example("grpcurl")], folder)
    *options, address, method = printed.removesuffix("\0").split("\0")
    assert address == "localhost:8001"
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert method == f"{service.full_name}/ModelInfer"
    assert options[:-1] == (
        ["-plaintext", "-import-path", "protobuf", "-proto", "grpc_service.proto", "-d"]
    )
    message = json_format.Parse(options[-1], service_pb2.ModelInferRequest())
    with InferenceServerClient(server.grpc_url) as triton:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(triton._channel)
        answer = stub.ModelInfer(message, timeout=60)
    got = np.frombuffer(answer.raw_output_contents[0], "<f4")
    expected = client.encode_text(["Nodule is present."])[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def name_for_json(messages: Any) -> None:
    """As protoc does it for .proto files; Python's descriptors leave it out."""
    for message in messages:
        for field in message.field:
            field.json_name = re.sub("_(.)", lambda match: match[1].upper(), field.name)
        name_for_json(message.nested_type)


def test_grpcurl_example_by_the_program_itself(
    server: EmbeddedTriton, client: Client, folder: Path
) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed: NOT RUN, only its message was sent")
    protos = descriptor_pb2.FileDescriptorSet()
    for module in (model_config_pb2, service_pb2):  # what the .proto files hold
        module.DESCRIPTOR.CopyToProto(protos.file.add())
        name_for_json(protos.file[-1].message_type)
    (folder / "triton.protoset").write_bytes(protos.SerializeToString())
    files = "-import-path protobuf -proto grpc_service.proto"
    code = example("grpcurl")
    assert files in code
    code = code.replace(files, "-protoset triton.protoset")
    code = code.replace("localhost:8001", server.grpc_url)
    answer = json.loads(run(["sh", "-euc", code], folder))
    got = np.frombuffer(base64.b64decode(answer["rawOutputContents"][0]), "<f4")
    expected = client.encode_text(["Nodule is present."])[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


Array = tuple[str, NDArray[Any]]


def scan(
    shape: tuple[int, ...] = (20, 24, 28),
    spacing: tuple[float, ...] = SPACING_MM,
    rescale: tuple[float, ...] = RESCALE,
) -> dict[str, Array]:
    return {
        "VOLUME": ("INT16", np.zeros(shape, np.int16)),
        "SPACING": ("FP64", np.array(spacing, np.float64)),
        "RESCALE": ("FP32", np.array(rescale, np.float32)),
    }


def texts(name: str, *items: bytes) -> dict[str, Array]:
    return {name: ("BYTES", np.array(items, np.object_))}


def relevance(code: int = 0, norm: float = 1) -> dict[str, Array]:
    return {
        "CODES": ("INT32", np.full((1, 4, 3, 5), code, np.int32)),
        "IMAGE_NORM": ("FP32", np.full((1, 1), norm, np.float32)),
    }


def tokens(word: int, kept: int) -> dict[str, Array]:
    return {
        "INPUT_IDS": ("INT64", np.full((1, 3), word, np.int64)),
        "ATTENTION_MASK": ("INT64", np.full((1, 3), kept, np.int64)),
    }


NAN, INFINITE = float("nan"), float("inf")
OTHER_TYPE: dict[str, Array] = {"VOLUME": ("UINT16", np.zeros((20, 24, 28), np.uint16))}
SCANS, EMBED = PATHOLOGIES.name, TEXT_EMBEDDING_ENSEMBLE.name

WRONG: dict[str, list[tuple[str, dict[str, Array]]]] = {
    "a spacing outside its limits, NaN or infinite": [
        (SCANS, scan(spacing=(value, 0.7, 0.7))) for value in (0.0, 0.05, 20.0, NAN, INFINITE)
    ],
    "a slope of 0, NaN or infinite; an intercept NaN or infinite": [
        (SCANS, scan(rescale=pair))
        for pair in ((0, 0), (NAN, 0), (INFINITE, 0), (1, NAN), (1, INFINITE))
    ],
    "a tensor with another name, data type or number of axes": [
        (SCANS, scan() | OTHER_TYPE),
        (SCANS, scan(shape=(24, 28))),
        (SCANS, scan(spacing=(2.5, 0.7))),
        (SCANS, {"IMAGE" if name == "VOLUME" else name: it for name, it in scan().items()}),
    ],
    "an input missing, or one too many": [
        (SCANS, {name: it for name, it in scan().items() if name != "RESCALE"}),
        (SCANS, scan() | texts("PROMPTS", b"a", b"b")),
    ],
    "more texts than fit into one request": [
        (EMBED, texts("TEXT", *[b"a"] * 65)),
        (ZERO_SHOT.name, scan() | texts("PROMPTS", *[b"a"] * 66)),
    ],
    "no texts, or bytes that are not UTF-8": [
        (EMBED, texts("TEXT")),
        (EMBED, texts("TEXT", b"\xff")),
    ],
    "a volume with an axis of size 0": [
        (SCANS, scan(shape=shape)) for shape in ((0, 24, 28), (20, 0, 28), (20, 24, 0))
    ],
    "an embedding, a code or a length that is none, sent to a model": [
        ("ctclip_findings", {"IMAGE_EMBEDDING": ("FP32", np.full((1, 32), NAN, np.float32))}),
        ("ctclip_relevance", relevance(code=-1)),
        ("ctclip_relevance", relevance(norm=0)),
    ],
    "voxels, token ids or a mask that are none, sent to a model": [
        *(
            ("ctclip_vision", {"VOXELS": ("FP32", np.full((1, 1, 40, 60, 100), bad, np.float32))})
            for bad in (NAN, INFINITE)
        ),
        *(("ctclip_text", tokens(*pair)) for pair in ((-1, 1), (10**6, 1), (1, 0), (1, 2))),
    ],
    "an odd number of prompts": [(ZERO_SHOT.name, scan() | texts("PROMPTS", b"a", b"b", b"c"))],
    "an unknown model or version": [
        ("ctclip_nothing", scan()),
        (f"{SCANS}/versions/99", scan()),
    ],
}


def grpc_status(
    server: EmbeddedTriton, path: str, arrays: dict[str, Array], outputs: tuple[str, ...] = ()
) -> str:
    """outputs: those asked for; none for all."""
    model, _, version = path.partition("/versions/")
    inputs = []
    for name, (dtype, array) in arrays.items():
        inputs.append(InferInput(name, list(array.shape), dtype))
        inputs[-1].set_data_from_numpy(array)
    with InferenceServerClient(server.grpc_url) as triton:
        try:
            asked = [InferRequestedOutput(name) for name in outputs]
            triton.infer(model, inputs, model_version=version, outputs=asked, client_timeout=60)
        except InferenceServerException as error:
            return str(error.status()).removeprefix("StatusCode.")
    return "OK"


def http_status(server: EmbeddedTriton, path: str, arrays: dict[str, Array]) -> int:
    inputs, body = [], b""
    for name, (dtype, array) in arrays.items():
        items = array.tolist() if dtype == "BYTES" else []
        packed = [len(item).to_bytes(4, "little") + item for item in items]
        data = b"".join(packed) if dtype == "BYTES" else array.tobytes()
        size = {"binary_data_size": len(data)}
        shape = list(array.shape)
        inputs.append({"name": name, "datatype": dtype, "shape": shape, "parameters": size})
        body += data
    header = json.dumps({"inputs": inputs}).encode()
    connection = HTTPConnection(server.http_url, timeout=60)
    length = {"Inference-Header-Content-Length": str(len(header))}
    connection.request("POST", f"/v2/models/{path}/infer", header + body, length)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert ("error" in answer) == (response.status != 200)
    return response.status


def test_every_refusal_is_tried() -> None:
    assert set(WRONG) == {refusal.cause for refusal in REFUSALS}
    assert all(WRONG.values())


def test_a_good_request_is_not_refused(server: EmbeddedTriton) -> None:
    for path, arrays in ((SCANS, scan()), (EMBED, texts("TEXT", *[b"a"] * 64))):
        assert grpc_status(server, path, arrays) == "OK"
        assert http_status(server, path, arrays) == 200


def test_fewer_outputs_than_an_ensemble_has_are_a_fault_of_triton(server: EmbeddedTriton) -> None:
    """Should this fail one day, the page's advice to take all outputs can go."""
    assert grpc_status(server, SCANS, scan(), outputs=("PROBABILITIES",)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.cause)
def test_refusals_have_the_status_on_the_page(server: EmbeddedTriton, refusal: Any) -> None:
    for path, arrays in WRONG[refusal.cause]:
        assert grpc_status(server, path, arrays) == refusal.grpc
        assert http_status(server, path, arrays) == refusal.http
