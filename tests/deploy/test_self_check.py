"""The container's self-check: asked once in the background, read by the health check."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

from ctclip_client.contract import CHECK, VISION, ZERO_SHOT
from ctclip_client.release.self_check import FILE, read_self_check
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import edit_self_check
from ..programs import Done
from ..programs import run as run_program
from .support import Handler, image_files, run_serve, served
from .test_health_check import health_check, port_of

RESULT = "ctclip-self-check"
Run = Callable[..., Done]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/opt/ctclip as the image has it."""
    folder = tmp_path_factory.mktemp("opt")
    for path in image_files():
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def run(image: Path, server: EmbeddedTriton, tmp_path: Path) -> Run:
    """Run the self-check against the real server, with nothing of this project installed."""

    def start(repository: Path, *options: str) -> Done:
        return run_program([
            sys.executable, "-c", _WITHOUT_THE_CLIENT, image, f"--repository={repository}",
            f"--result={tmp_path / RESULT}", f"--port={port_of(server)}",
            f"--server-process={os.getpid()}", *options,
        ])  # fmt: skip

    return start


_WITHOUT_THE_CLIENT = """
import runpy, sys
folder = sys.argv.pop(1)
sys.path.insert(0, folder)
sys.modules["ctclip_client"] = None  # the image does not have it
runpy.run_path(folder + "/run_self_check.py", run_name="__main__")
"""


def result(folder: Path) -> str:
    return (folder / RESULT).read_text().strip()


def test_a_release_that_answers_as_recorded(run: Run, repository: Path, tmp_path: Path) -> None:
    done = run(repository)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert result(tmp_path).startswith("passed in fp32, ctclip_vision by onnxruntime on ")
    assert "cosine of the embedding 1.0000" in result(tmp_path)
    assert done.stderr == f"ctclip: self-check {result(tmp_path)}\n"


def test_the_precision_is_that_of_the_config(run: Run, repository: Path, tmp_path: Path) -> None:
    """The bounds, that is: what answers here is the same server."""
    for name, precision in (("openvino", "fp32"), ("openvino-bf16", "bf16"), ("other", "fp32")):
        assert run(repository, f"--config-name={name}").returncode == 0
        assert result(tmp_path).startswith(f"passed in {precision}, ")


@pytest.fixture
def own(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "repository"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("answer", "failed: cosine of the embedding -1.0"),
        (
            "release",
            "answers, the self-check is of another (in fp32, ctclip_vision by onnxruntime on ",
        ),
        ("file", f"failed: it could not be made: {FILE}: no self-check that can be read"),
        ("prompts", "failed: it could not be made: /v2/models/ctclip_zero_shot/infer: HTTP 400"),
        ("pins", "failed: the steps of ctclip_zero_shot are of versions ['1', '2'], expected one"),
        (
            "config",
            "failed: it could not be made: [Errno 2] No such file or directory: '{own}",
        ),
    ],
)
def test_a_failure_is_left_as_a_result(
    fault: str, said: str, run: Run, own: Path, tmp_path: Path
) -> None:
    path = own / CHECK.name / "1" / FILE
    check = read_self_check(path)
    if fault == "answer":
        edit_self_check(own, image_embedding=-check.image_embedding)
    elif fault == "release":
        edit_self_check(own, release="another")
    elif fault == "file":
        path.write_bytes(path.read_bytes()[:1000])
    elif fault == "prompts":
        edit_self_check(own, prompts=check.prompts * 10, logits=check.logits.repeat(10, axis=1))
    elif fault == "pins":
        config = own / ZERO_SHOT.name / "config.pbtxt"
        config.write_text(config.read_text().replace("model_version: 1", "model_version: 2", 1))
    else:
        (own / VISION.name / "config.pbtxt").unlink()
    done = run(own)
    assert done.returncode == 1
    assert said.format(own=own) in result(tmp_path)
    assert len(done.stderr.splitlines()) == 1


def test_an_older_repository_is_skipped(run: Run, own: Path, tmp_path: Path) -> None:
    (own / CHECK.name / "1" / FILE).unlink()
    assert run(own).returncode == 0
    assert result(tmp_path).startswith("skipped: this release carries none")


@pytest.mark.parametrize(
    ("left", "healthy"),
    [
        (None, True),
        ("passed in fp32", True),
        ("skipped: this release carries none", True),
        ("running", False),
        ("failed: cosine of the embedding 0.5", False),
        ("", False),
    ],
)
def test_the_health_check_reads_it(
    left: str | None, healthy: bool, image: Path, server: EmbeddedTriton, tmp_path: Path
) -> None:
    if left is not None:
        (tmp_path / RESULT).write_text(left + "\n")
    done = health_check(port_of(server), image=image, left=str(tmp_path))
    assert done.returncode == (0 if healthy else 1), done.stderr
    assert ("health check: self-check" in done.stderr) == (not healthy)
    assert left is None or healthy or left in done.stderr


_TRITON = """#!/bin/sh
echo $$ > "$TMPDIR/triton"
while [ ! -e "$TMPDIR/end" ]; do sleep 0.1; done
"""


def test_serve_begins_it_and_it_ends_with_triton(image: Path, tmp_path: Path) -> None:
    stand_in = tmp_path / "tritonserver"
    stand_in.write_text(_TRITON)
    stand_in.chmod(0o755)
    (tmp_path / RESULT).write_text("passed, before the restart\n")
    with subprocess.Popen(
        [image / "serve", "--model-repository=/models"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            while not (tmp_path / "triton").exists():
                time.sleep(0.05)
            assert int((tmp_path / "triton").read_text()) == process.pid  # exec: signals reach it
            assert result(tmp_path) == "running"
            (tmp_path / "end").touch()
            # Its pipe is open in the background process, too: this waits for both.
            out, err = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, out, err) == (0, "", "")
    assert result(tmp_path) == "running"


_ENDS_AT_ONCE = "#!/bin/sh\necho started\n"


@pytest.mark.parametrize(
    "arguments",
    [["--model-repository", "/models"], ["--model-store=/models", "--id=a"], ["--http-port=8000"]],
)
def test_serve_never_leaves_it_open(arguments: list[str], image: Path, tmp_path: Path) -> None:
    """Without a result in the end the container would be taken for healthy."""
    done = run_serve(tmp_path, arguments, _ENDS_AT_ONCE, image)
    assert (done.returncode, done.stdout) == (0, "started\n")
    expected = "running" if len(arguments) == 2 else "failed: serve was given no --model-repository"
    assert result(tmp_path) == expected


def test_serve_refuses_to_start_where_nothing_can_be_left(image: Path, tmp_path: Path) -> None:
    arguments = ["--model-repository=/models"]
    done = run_serve(tmp_path, arguments, _ENDS_AT_ONCE, image, TMPDIR="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot write /nowhere/ctclip-self-check: give the container a /tmp" in done.stderr


def test_it_asks_again_while_the_queue_is_full(
    run: Run, server: EmbeddedTriton, repository: Path, tmp_path: Path
) -> None:
    """A Triton that is busy twice, then hands on what the real one says."""
    busy = [503, 503]

    class Busy(Handler):
        def reply(self, body: bytes) -> None:
            if body and busy:
                self.answer(status=busy.pop())
                return
            url = f"http://{server.http_url}{self.path}"
            with urlopen(url, body or None, timeout=60) as answer:
                self.answer(answer.read())

    with served(Busy) as port:
        done = run(repository, f"--port={port}")
    assert done.returncode == 0, done.stderr
    assert result(tmp_path).startswith("passed")
    assert not busy
