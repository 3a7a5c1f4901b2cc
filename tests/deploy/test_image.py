"""The image: version floor, the one added package, and the script that starts Triton."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..programs import Done, run
from .support import IMAGE, ROOT, image_files, run_serve

LOWEST_RELEASE = (26, 8)
WORD_PIECES = ROOT / "export/src/ctclip_export/text/word_pieces.py"
ADMIN = "ctclip-admin=0123456789abcdef"
Serve = Callable[..., Done]


@pytest.mark.parametrize("file", ["deploy/image/Dockerfile", "docker-compose.yml", ".env.example"])
def test_triton_is_new_enough(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    tags = re.findall(r"nvcr\.io/nvidia/tritonserver:(\d+)\.(\d+)-py3", text)
    assert tags
    assert all((int(year), int(month)) >= LOWEST_RELEASE for year, month in tags)


def test_the_image_adds_the_tested_tokenizers_and_nothing_else() -> None:
    lines = (IMAGE / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (pin,) = (line.removesuffix("\\").strip() for line in lines if re.match(r"\w", line))
    assert pin in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert pin.startswith("tokenizers==")
    hashes = [line for line in lines if "--hash" in line]
    assert len(hashes) == 2
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}\b", line) for line in hashes)
    dockerfile = (IMAGE / "Dockerfile").read_text(encoding="utf-8")
    for option in ("--require-hashes", "--only-binary=:all:", "--no-deps", "--target"):
        assert option in dockerfile
    assert "apt-get" not in dockerfile


def test_tokenizers_works_without_the_packages_it_names(tmp_path: Path) -> None:
    """As in the image, which has only this one: --no-deps."""
    spec = find_spec("tokenizers")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (tmp_path / "tokenizers").symlink_to(spec.submodule_search_locations[0])
    (tmp_path / "word_pieces.py").symlink_to(WORD_PIECES)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from word_pieces import bert_tokenizer\n"
        "text = '[PAD]\\n[UNK]\\n[CLS]\\n[SEP]\\n[MASK]\\nnodule\\n'\n"
        "print(bert_tokenizer(text, 8).encode('Nodule').ids)\n"
    )
    done = run([sys.executable, "-I", "-S", "-c", program])
    assert (done.stdout.strip(), done.stderr) == ("[2, 5, 3]", "")


def test_the_image_runs_as_a_user_without_rights() -> None:
    lines = (IMAGE / "Dockerfile").read_text(encoding="utf-8").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1] == "triton-server"


def test_every_file_of_the_image_is_there_and_reaches_the_build() -> None:
    own = {path for path in image_files() if path.parent == IMAGE}
    assert own == {path for path in IMAGE.iterdir() if path.is_file()} - {IMAGE / "Dockerfile"}
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    admitted = [ROOT / line.removeprefix("!") for line in patterns if line.startswith("!")]
    for path in image_files():
        assert path.is_file()
        assert any(path.is_relative_to(folder) for folder in admitted), path


def test_an_exported_repository_is_readable_for_that_user(repository: Path) -> None:
    for path in [repository, *repository.rglob("*")]:
        needed = stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        assert path.stat().st_mode & needed == needed, path


def test_serve_adds_nothing_that_was_not_asked_for(serve: Serve) -> None:
    done = serve(["--model-repository=/models", "--id=a b"], CTCLIP_CONFIG_NAME="")
    assert done.stdout.splitlines() == [
        "--model-repository=/models",
        "--id=a b",
        "--http-address=0.0.0.0",
    ]


def test_serve_chooses_the_config(serve: Serve) -> None:
    done = serve([], CTCLIP_CONFIG_NAME="tensorrt")
    assert "--model-config-name=tensorrt" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("variables", "isa"),
    [
        ({}, ""),
        ({"CTCLIP_CONFIG_NAME": "tensorrt"}, ""),
        ({"CTCLIP_CONFIG_NAME": "openvino"}, "AVX512_CORE_VNNI"),
        ({"CTCLIP_CONFIG_NAME": "openvino-bf16"}, ""),
        ({"CTCLIP_CONFIG_NAME": "openvino", "OV_CPU_MAX_ISA": "AVX2"}, "AVX2"),
    ],
)
def test_openvino_computes_in_float32_unless_bf16_was_chosen(
    variables: dict[str, str], isa: str, tmp_path: Path
) -> None:
    """The official backend has no parameter for it; OpenVINO itself reads this variable."""
    stand_in = '#!/bin/sh\nprintf %s "${OV_CPU_MAX_ISA:-}"\n'
    done = run_serve(tmp_path, stand_in=stand_in, **variables)
    assert (done.returncode, done.stdout) == (0, isa)


_LEFT_TO_ITSELF = """
import ctclip_server  # it forbids OpenVINO to report home
import openvino
core = openvino.Core()
model = core.compile_model(core.read_model({path!r}), "CPU")
print(model.get_property("INFERENCE_PRECISION_HINT").get_type_name())
"""


def test_openvino_itself_obeys_the_variable(repository: Path) -> None:
    """With nothing pinned in the model, as in the official backend; bf16 on CPUs that have it."""
    path = repository / "ctclip_vision" / "1" / "model.onnx"
    done = run(
        [sys.executable, "-c", _LEFT_TO_ITSELF.format(path=str(path))],
        env=os.environ | {"OV_CPU_MAX_ISA": "AVX512_CORE_VNNI"},
    )
    assert done.stdout.strip() == "f32", done.stderr


def test_serve_closes_both_ports_to_who_has_no_key(serve: Serve) -> None:
    arguments = serve([], CTCLIP_ADMIN_HEADER=ADMIN).stdout.splitlines()
    closed = f"model-repository,model-config,shared-memory,statistics,trace,logging:{ADMIN}"
    assert f"--grpc-restricted-protocol={closed}" in arguments
    assert f"--http-restricted-api={closed}" in arguments


@pytest.mark.parametrize(("mode", "names"), [("server", 2), ("mutual", 3)])
def test_serve_names_the_certificates(mode: str, names: int, serve: Serve, tmp_path: Path) -> None:
    for name in ("server.crt", "server.key", "ca.crt")[:names]:
        (tmp_path / name).touch()
    done = serve([], CTCLIP_GRPC_TLS=mode, CTCLIP_TLS_FOLDER=str(tmp_path))
    arguments = done.stdout.splitlines()
    assert "--grpc-use-ssl=true" in arguments
    assert f"--grpc-server-cert={tmp_path}/server.crt" in arguments
    assert f"--grpc-server-key={tmp_path}/server.key" in arguments
    mutual = {"--grpc-use-ssl-mutual=true", f"--grpc-root-cert={tmp_path}/ca.crt"}
    assert mutual & set(arguments) == (mutual if mode == "mutual" else set())


def test_serve_refuses_a_config_name_that_no_model_has(serve: Serve, tmp_path: Path) -> None:
    """Triton would serve the defaults without a word."""
    configs = tmp_path / "a model" / "configs"
    configs.mkdir(parents=True)
    (configs / "openvino.pbtxt").touch()
    options = [f"--model-repository={tmp_path}"]
    assert serve(options, CTCLIP_CONFIG_NAME="openvino").returncode == 0
    done = serve(options, CTCLIP_CONFIG_NAME="openvin0")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"no model of {tmp_path} has configs/openvin0.pbtxt" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("CTCLIP_CONFIG_NAME", "tensor rt", "CTCLIP_CONFIG_NAME: got 'tensor rt'"),
        ("CTCLIP_CONFIG_NAME", "../x", "CTCLIP_CONFIG_NAME: got '../x'"),
        ("CTCLIP_ADMIN_HEADER", "0123456789abcdef", "CTCLIP_ADMIN_HEADER: expected key=value"),
        ("CTCLIP_ADMIN_HEADER", "no-equals-sign", "value of at least 16"),
        ("CTCLIP_ADMIN_HEADER", "key=short", "value of at least 16"),
        ("CTCLIP_ADMIN_HEADER", "Key=0123456789abcdef", "with a key of a-z"),
        ("CTCLIP_ADMIN_HEADER", "=0123456789abcdef", "with a key of a-z"),
        ("CTCLIP_GRPC_TLS", "yes", "CTCLIP_GRPC_TLS: got 'yes', expected off, server or mutual"),
        ("CTCLIP_GRPC_TLS", "server", "cannot read /nowhere/server.crt"),
    ],
)
def test_serve_refuses_what_it_cannot_use(
    variable: str, value: str, message: str, serve: Serve
) -> None:
    done = serve([], CTCLIP_TLS_FOLDER="/nowhere", **{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    if variable == "CTCLIP_ADMIN_HEADER":
        assert value not in done.stderr
        assert value.rpartition("=")[2] not in done.stderr
