"""On a GPU, Triton's pools are sized from the repository, and what cannot fit is refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.release.gpu_memory import LARGEST_SCAN_BYTES

from ..programs import Done
from .support import ROOT, image_files, run_serve

PUBLISHED = ROOT / "model_repository"
VOXELS_BYTES = 4 * 240 * 480 * 480
Serve = Callable[..., Done]
SMI = "#!/bin/sh\necho '81920, 1024'\n"


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """`serve(repository, smi=…, VARIABLE=value)` as the image has it; smi: its nvidia-smi."""
    image = tmp_path / "opt"
    image.mkdir()
    for path in image_files():
        shutil.copy(path, image)

    def run(repository: Path, smi: str = SMI, **variables: str) -> Done:
        program = tmp_path / "nvidia-smi"
        program.write_text(smi)
        program.chmod(0o755)
        return run_serve(tmp_path, [f"--model-repository={repository}"], image=image, **variables)

    return run


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of the configs at the published geometry."""
    return Path(shutil.copytree(PUBLISHED, tmp_path / "repository"))


def pools_of(done: Done) -> tuple[int, int]:
    assert done.returncode == 0, done.stderr
    found = re.search(
        r"^--cuda-memory-pool-byte-size=0:(\d+)\n--pinned-memory-pool-byte-size=(\d+)$",
        done.stdout, re.MULTILINE,
    )  # fmt: skip
    assert found
    return int(found[1]), int(found[2])


def edit(path: Path, pattern: str, replacement: str) -> None:
    text, changed = re.subn(pattern, replacement, path.read_text())
    assert changed
    path.write_text(text)


@pytest.mark.parametrize(("batch", "alive"), [(4, 16 + 2 * 4 + 1), (1, 16 + 1 + 1)])
def test_a_full_queue_stays_on_the_gpu(batch: int, alive: int, serve: Serve, own: Path) -> None:
    """In the queue, computed, gathered into one batch, and one that preprocessing writes."""
    vision = own / "ctclip_vision" / "config.pbtxt"
    edit(vision, r"max_batch_size: \d+", f"max_batch_size: {batch}")
    edit(vision, r"max_queue_size: \d+", "max_queue_size: 16")
    done = serve(own)
    assert pools_of(done) == (
        alive * VOXELS_BYTES + LARGEST_SCAN_BYTES, batch * VOXELS_BYTES + LARGEST_SCAN_BYTES,
    )  # fmt: skip
    assert f"of the {alive} volumes of a full queue, {alive}." in done.stderr


def test_another_geometry_is_right_by_itself(serve: Serve, own: Path) -> None:
    """By the config that is served."""
    config = own / "ctclip_vision" / "configs" / "tensorrt.pbtxt"
    edit(config, r"dims: \[1, 240, 480, 480\]", "dims: [1, 120, 240, 240]")
    cuda, pinned = pools_of(serve(own, CTCLIP_CONFIG_NAME="tensorrt"))
    assert cuda - LARGEST_SCAN_BYTES == 25 * VOXELS_BYTES // 8
    assert (pinned - LARGEST_SCAN_BYTES) == 4 * VOXELS_BYTES // 8


def test_a_site_chooses_other_sizes(serve: Serve) -> None:
    asked = {"CTCLIP_CUDA_POOL_BYTES": "2000000000", "CTCLIP_PINNED_POOL_BYTES": "1048576"}
    done = serve(PUBLISHED, **asked)
    assert pools_of(done) == (2_000_000_000, 2**20)
    room = (2_000_000_000 - LARGEST_SCAN_BYTES) // VOXELS_BYTES
    assert f"of a full queue, {room}." in done.stderr


def test_a_site_does_without_pools_but_not_with_tiny_ones(serve: Serve) -> None:
    names = ("CTCLIP_CUDA_POOL_BYTES", "CTCLIP_PINNED_POOL_BYTES")
    assert pools_of(serve(PUBLISHED, **dict.fromkeys(names, "0"))) == (0, 0)
    for name, size in zip(names, ("1", "1048575"), strict=True):
        done = serve(PUBLISHED, **{name: size})
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{name}: got '{size}', expected a number of bytes: 0 (no pool), or" in done.stderr


def test_without_a_gpu_there_are_no_pools(serve: Serve) -> None:
    done = serve(PUBLISHED, smi="#!/bin/sh\nexit 9\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pool" not in done.stdout


def test_a_gpu_that_does_not_tell_its_memory_is_said(serve: Serve, own: Path) -> None:
    """Configs for a GPU were chosen: there is one, whatever nvidia-smi says."""
    done = serve(own, smi="#!/bin/sh\nexit 9\n", CTCLIP_CONFIG_NAME="gpu")
    assert pools_of(done)
    assert "nvidia-smi does not tell how much there is: not checked" in done.stderr


@pytest.mark.parametrize(
    ("total_mib", "used_mib", "pool", "free"),
    [(8 << 10, 1 << 10, "", "7.0"), (80 << 10, 1 << 10, str(80 << 30), "79.0")],
)
def test_what_cannot_fit_is_refused(
    total_mib: int, used_mib: int, pool: str, free: str, serve: Serve
) -> None:
    smi = f"#!/bin/sh\necho '{total_mib}, {used_mib}'\n"
    done = serve(PUBLISHED, smi=smi, CTCLIP_CUDA_POOL_BYTES=pool)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{free} of this GPU's {total_mib >> 10}.0 GiB are free" in done.stderr
    assert "Set CTCLIP_CUDA_POOL_BYTES to less than" in done.stderr


def test_what_fits_only_until_arenas_grow_is_said(serve: Serve) -> None:
    """Weights, inputs and outputs are sure; that ONNX Runtime holds twice as much is not."""
    chosen = {"CTCLIP_CONFIG_NAME": "gpu", "CTCLIP_CUDA_POOL_BYTES": str(2**30)}
    lines = serve(PUBLISHED, **chosen).stderr
    least = 1 + sum(float(n) for n in re.findall(r"(?:at least|a guess) (\d+\.\d)", lines))
    for room_mib, code in ((400, 0), (-200, 2)):
        smi = f"#!/bin/sh\necho '{int(least * 1024) + room_mib}, 0'\n"
        done = serve(PUBLISHED, smi=smi, **chosen)
        assert done.returncode == code
        assert ("WARNING: ONNX Runtime's arenas may grow that to" in done.stderr) is (code == 0)
        assert "Set CTCLIP_CUDA_POOL_BYTES to less than" in done.stderr


def test_engines_count_with_their_contexts(serve: Serve, own: Path) -> None:
    folder = own / "ctclip_vision" / "1"
    folder.mkdir(exist_ok=True)
    (folder / "model.plan").write_bytes(b"a plan")
    (folder / "engine.json").write_text('{"layers": {"activation_bytes": 3221225472}}')
    done = serve(own, CTCLIP_CONFIG_NAME="tensorrt")
    assert "engines 3.8," in done.stderr  # and four volumes of input


@pytest.mark.parametrize(
    ("pattern", "replacement", "said"),
    [
        (r"max_queue_size: \d+", "", "has no max_queue_size"),
        ("VOXELS", "VOXEL", "has no input VOXELS"),
    ],
)
def test_a_config_that_does_not_tell_is_refused(
    pattern: str, replacement: str, said: str, serve: Serve, own: Path
) -> None:
    edit(own / "ctclip_vision" / "config.pbtxt", pattern, replacement)
    done = serve(own)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
