"""docs/contract.md: equal to the contract, and true. Its examples are run as they are printed."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, json_format
from numpy.typing import NDArray
from tritonclient.grpc import (
    InferenceServerClient,
    model_config_pb2,
    service_pb2,
    service_pb2_grpc,
)

from ctclip_client import Client, Volume
from ctclip_client.contract import (
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MAX_TOKENS,
    MODELS,
    PUBLISHED_DIMENSIONS,
    SPACING_MM_RANGE,
    TEXT_ENCODER,
    VERSION,
)
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server.embedded.server import EmbeddedTriton

from ..programs import run
from .support import ROOT, need

PAGE = ROOT / "docs" / "contract.md"
TEXT = PAGE.read_text(encoding="utf-8")
ENTRIES = (*ENSEMBLES, *CLASSFINE_ENSEMBLES, *MODELS, *CLASSFINE_MODELS)
# As in the examples.
SPACING_MM = (2.5, 0.7, 0.7)
RESCALE = (1.0, -1024.0)


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## )", TEXT, re.DOTALL | re.MULTILINE)
    return str(text)


def example(name: str) -> str:
    (code,) = re.findall(rf"<!-- example: {name} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
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


def printed_by(command: list[str], folder: Path) -> str:
    done = run(command, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run_python(code: str, server: EmbeddedTriton, folder: Path) -> list[tuple[float, str]]:
    (folder / "example.py").write_text(code.replace("localhost:8001", server.grpc_url))
    printed = printed_by([sys.executable, "example.py"], folder).splitlines()
    return [(float(number), name) for number, name in (line.split("  ", 1) for line in printed)]


def run_shell(code: str, server: EmbeddedTriton, folder: Path) -> dict[str, Any]:
    need("curl")
    script = code.replace("localhost:8000", server.http_url)
    answer = json.loads(printed_by(["sh", "-euc", script], folder))
    assert "outputs" in answer, answer
    return {tensor["name"]: tensor for tensor in answer["outputs"]}


def check_tables(page: Path) -> int:
    return run([sys.executable, ROOT / "scripts/contract_page.py", "--check", page]).returncode


def test_generated_tables_are_those_of_the_contract(tmp_path: Path) -> None:
    assert check_tables(PAGE) == 0, "Run scripts/contract_page.py."
    stale = tmp_path / "stale.md"
    stale.write_text(TEXT.replace("VOLUME INT16 [z, x, y]", "VOLUME INT16 [x, y, z]"))
    assert check_tables(stale) == 1


def test_the_version_is_that_of_the_wire_alone() -> None:
    words = " ".join(section("Version").split())
    assert f"The contract has version {VERSION}. It covers models, tensors and PROVENANCE" in words
    assert "Additions do not raise it" in words


def test_axes_and_limits_are_those_of_the_contract() -> None:
    tensors = [tensor for entry in ENTRIES for tensor in (*entry.inputs, *entry.outputs)]
    axes = {dim for tensor in tensors for dim in tensor.dims if isinstance(dim, str)} | {"B"}
    sizes = PUBLISHED_DIMENSIONS.sizes()
    rows = dict(re.findall(r"^\| ([\w']+) \| [^|]+ \| (\d*) ?\|$", section("Axes"), re.MULTILINE))
    assert rows == {axis: str(sizes.get(axis, "")) for axis in axes}
    low, high = SPACING_MM_RANGE
    limits = section("Limits")
    assert f"| more than {low} mm, less than {high:g} mm |" in limits
    assert f"| 1 to {TEXT_ENCODER.max_batch_size} |" in limits
    assert f"| {MAX_TOKENS} tokens;" in limits
    relevance_bytes = 4 * sizes["F"] * math.prod(PUBLISHED_DIMENSIONS.token_shape)
    assert f"{relevance_bytes:,} bytes" in limits


def test_the_text_names_tensors_of_the_contract_only() -> None:
    known = {tensor.name for entry in ENTRIES for tensor in (*entry.inputs, *entry.outputs)}
    assert set(re.findall(r"\*\*([A-Z_]+)\*\*", TEXT)) <= known
    names = {entry.name for entry in ENTRIES}
    assert set(re.findall(r"`(ctclip_(?!client)\w+)`", TEXT)) <= names


def same(got: Any, expected: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(np.ravel(got), np.ravel(expected), rtol=0, atol=1e-6)


def test_python_examples(
    server: EmbeddedTriton, client: Client, folder: Path, voxels: NDArray[np.int16]
) -> None:
    """The second goes on after the first, with more prompts than fit into one request."""
    pairs = [(f"Nodule {n} is present.", f"No nodule {n}.") for n in range(40)]
    lines = [sentence for pair in pairs for sentence in pair]
    (folder / "prompts.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    printed = run_python(example("python") + example("many-prompts"), server, folder)
    volume = Volume.from_array(voxels, SPACING_MM, RESCALE)
    findings, own = client.pathologies(volume), client.zero_shot(volume, pairs)
    assert [name for _, name in printed] == [*findings.findings, *lines[::2]]
    expected = np.concatenate([findings.probabilities, own.probabilities])
    same([value for value, _ in printed], expected)


def test_curl_example(
    server: EmbeddedTriton, client: Client, folder: Path, voxels: NDArray[np.int16]
) -> None:
    shape = ",".join(map(str, voxels.shape))
    code, count = re.subn(r"^shape=[\d,]+", f"shape={shape}", example("curl"))
    assert count == 1
    outputs = run_shell(code, server, folder)
    expected = client.pathologies(Volume.from_array(voxels, SPACING_MM, RESCALE))
    same(outputs["PROBABILITIES"]["data"], expected.probabilities)
    release = json.loads(outputs["PROVENANCE"]["data"][0])
    assert release["release"] == expected.provenance.release


def test_curl_example_with_bytes_in_the_answer(
    server: EmbeddedTriton, client: Client, folder: Path
) -> None:
    advice = '"parameters":{"binary_data_output":true}'
    assert f"`{advice}` beside `inputs`" in TEXT
    code = example("curl-text").replace('\'{"inputs"', "'{" + advice + ',"inputs"')
    code = code.replace("localhost:8000", server.http_url)
    printed_by(["sh", "-euc", f"{code.rstrip()} --dump-header headers --output answer"], folder)
    headers = (folder / "headers").read_text().lower()
    (length,) = re.findall(r"^inference-header-content-length: (\d+)", headers, re.MULTILINE)
    got = np.frombuffer((folder / "answer").read_bytes()[int(length) :], "<f4")
    same(got, client.encode_text(["Nodule is present.", "No effusion."]))


def test_curl_example_with_texts(server: EmbeddedTriton, client: Client, folder: Path) -> None:
    embedding = run_shell(example("curl-text"), server, folder)["TEXT_EMBEDDING"]
    expected = client.encode_text(["Nodule is present.", "No effusion."])
    assert tuple(embedding["shape"]) == expected.shape
    same(embedding["data"], expected)


def test_message_of_the_grpcurl_example(
    server: EmbeddedTriton, client: Client, folder: Path
) -> None:
    """The shell and the message are real, the program is not: a stand-in prints its arguments."""
    stand_in = 'grpcurl() { for argument; do printf "%s\\0" "$argument"; done; }\n'
    printed = printed_by(["sh", "-euc", stand_in + example("grpcurl")], folder)
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
    same(got, client.encode_text(["Nodule is present."]))


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
    code = example("grpcurl").replace("localhost:8001", server.grpc_url)
    assert files in code
    code = code.replace(files, "-protoset triton.protoset")
    answer = json.loads(printed_by(["sh", "-euc", code], folder))
    got = np.frombuffer(base64.b64decode(answer["rawOutputContents"][0]), "<f4")
    same(got, client.encode_text(["Nodule is present."]))
