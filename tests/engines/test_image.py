"""The image that builds engines: what is installed there is enough, and its versions agree."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "engines"
# Of what pip brings along with the packages that are named; the bindings come by themselves.
MODULES = {"onnx": "onnx", "onnxruntime": "onnxruntime", "numpy": "numpy", "rich": "rich",
           "tokenizers": "tokenizers", "protobuf": "google", "ml_dtypes": "ml_dtypes",
           "typing_extensions": "typing_extensions", "markdown-it-py": "markdown_it",
           "mdurl": "mdurl", "Pygments": "pygments", "flatbuffers": "flatbuffers",
           "packaging": "packaging"}  # fmt: skip


def named() -> list[str]:
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def closure(names: list[str]) -> set[str]:
    """What pip installs for these names, apart from huggingface's hub, which nothing imports."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name.lower() in {each.lower() for each in found} or name == "huggingface-hub":
            continue
        found.add(name)
        for text in requires(name) or ():
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                left.append(need.name)
    return found


def test_build_engines_runs_with_these_packages_and_no_others(
    exported: Callable[[str], Path], tmp_path: Path
) -> None:
    """As there: no torch, no tritonclient, no nibabel. It gets as far as TensorRT's own module."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in closure(named()):
        spec = find_spec(MODULES.get(name, name))
        assert spec is not None, name
        assert spec.submodule_search_locations or spec.origin
        source = Path((spec.submodule_search_locations or [spec.origin])[0])
        (packages / source.name).symlink_to(source)
    for distribution in ("client", "export"):
        (source,) = (ROOT / distribution / "src").glob("ctclip_*")
        (packages / source.name).symlink_to(source)
    program = (
        "import sys; from pathlib import Path\n"
        "from ctclip_export.cli import build_engines\n"
        "import argparse; parser = argparse.ArgumentParser(); build_engines.configure(parser)\n"
        "from ctclip_client.errors import CTClipError\n"
        "from ctclip_export.engines.warmup import write_warmup\n"
        "from ctclip_export.engines.build import _read_repository, ENCODERS\n"
        "repository = Path(sys.argv[1])\n"
        "release, versions = _read_repository(repository, ENCODERS)\n"
        "try:\n"
        "    flags = ['--repository', str(repository), '--target', 'tensorrt']\n"
        "    build_engines.run(parser.parse_args(flags))\n"
        "except CTClipError as error:\n"
        "    print(error.cause)\n"
        "print(sorted({'torch', 'tritonclient', 'nibabel'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c",
         f"import sys; sys.path.insert(0, {str(packages)!r})\n{program}", str(exported("fp32"))],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.stderr == ""
    assert "No module named 'tensorrt'" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_bindings_are_of_the_images_tensorrt() -> None:
    """Triton 26.08 has TensorRT 11.2; that is what the exporter's extra asks for, too."""
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    (version,) = re.findall(r"^ARG TENSORRT_BINDINGS=tensorrt-cu13-bindings==([\d.]+)$", text, re.M)
    assert Version(version).release[:2] == (11, 2)
    extra = (ROOT / "export" / "pyproject.toml").read_text(encoding="utf-8")
    assert 'tensorrt = ["tensorrt>=11.2,<11.3"]' in extra
    for file in ("docker-compose.yml", ".env.example"):
        assert f"tensorrt-cu13-bindings=={version}" in (ROOT / file).read_text(encoding="utf-8")


def test_what_the_image_copies_is_in_its_context() -> None:
    text = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    for line in re.findall(r"^COPY (.*)$", text, re.M):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(f"!{part}" in ignored for part in (source, str(Path(source).parent)))
    assert re.findall(r"^USER (.*)$", text, re.M)[-1] == "triton-server"
