"""No library reports to its maker that it runs here."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from ctclip_client.system.telemetry import ORT_VARIABLE
from ctclip_server.embedded.server import EmbeddedTriton

from ..programs import run

ROOT = Path(__file__).parents[2]
SUPPRESSING = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL", ORT_VARIABLE)


@pytest.mark.parametrize("package", ["ctclip_export", "ctclip_bench", "ctclip_server"])
def test_runtimes_leave_nothing_in_a_home(package: str, tmp_path: Path) -> None:
    """They keep an identifier of the machine there before they send anything."""
    environment = {k: v for k, v in os.environ.items() if k not in SUPPRESSING}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    code = f"import {package}, onnxruntime, openvino"
    done = run([sys.executable, "-c", code], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_a_server_and_its_stubs_are_told(server: EmbeddedTriton) -> None:
    triton = psutil.Process(server.process_id)
    for process in (triton, *triton.children(recursive=True)):
        assert process.environ()[ORT_VARIABLE] == "1"


def test_the_images_say_it_too() -> None:
    for image in ("deploy/image/Dockerfile", "deploy/engines/Dockerfile"):
        assert f"{ORT_VARIABLE}=1" in (ROOT / image).read_text(encoding="utf-8")
