"""Fixtures of all rooms: golden data, one exported repository and one real server for the run."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ctclip_client.cli.program import TRACEBACK_VARIABLE
from ctclip_client.contract import CHECK, PUBLISHED_FINDINGS, Geometry
from ctclip_client.errors import InvalidInput
from ctclip_client.release.self_check import FILE as SELF_CHECK
from ctclip_client.release.self_check import read_self_check
from ctclip_export.checkpoint import Checkpoint, TextModel, load_checkpoint, read_text_model
from ctclip_export.parity.runtimes import require_bfloat16
from ctclip_export.repository.build import Export, export_repository
from ctclip_export.samples.phantom import chest_phantom
from ctclip_export.samples.sample_data import CHEST_CT, VOCABULARY, fetch
from ctclip_server.embedded.server import EmbeddedTriton

from .certificates import Certificates
from .nifti_files import save_volume

DATA = Path(__file__).parent / "data"
os.environ[TRACEBACK_VARIABLE] = "1"  # what no command foresaw fails the test


_STARTED = time.time()
_LONGEST = (
    "end_to_end/test_demo.py",
    "end_to_end/test_many_scans.py",
    "benchmarks/test_gpu_phases.py",
    "server/test_self_check.py",
    "benchmarks/test_parity.py",
    "export/test_precision.py",
    "export/test_export.py",
    "engines/test_rtx.py",
    "server/test_promotion.py",
    "browser/test_report.py",
    "server/test_release_switch.py",
    "end_to_end/test_many_scans.py",
    "end_to_end/test_bad_tensors.py",
    "end_to_end/test_termination.py",
    "export/test_int8.py",
    "server/test_embedded.py",
    "analysis/test_heads_served.py",
)
"""Begun last, they would keep one worker of pytest-xdist busy while the others have
nothing left."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first; the Makefile has pytest-xdist keep this order."""
    rank = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get("/".join(item.path.parts[-2:]), len(rank)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Remove the empty folders that Tritons which tests killed have left; see `embedded.keeper`."""
    if hasattr(session.config, "workerinput"):
        return  # the others may still run
    for path in Path("/tmp").glob("python_env_*"):  # noqa: S108 (Triton knows no other place)
        with contextlib.suppress(OSError):
            if path.stat().st_ctime > _STARTED:
                path.rmdir()


@dataclass(frozen=True)
class Golden:
    """A small CT-CLIP with upstream's own answers; see tests/data/golden/README.md."""

    folder: Path
    case: dict[str, Any]
    expected: dict[str, NDArray[Any]]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "ctclip.pt"

    @property
    def text_model(self) -> Path:
        return self.folder / "text_model"

    @property
    def geometry(self) -> Geometry:
        depth, height, width = self.case["volume_shape"]
        return Geometry((depth, height, width))

    @property
    def volume_shape_flag(self) -> str:
        return "x".join(map(str, self.case["volume_shape"]))


def edit_self_check(repository: Path, version: int = 1, **changes: Any) -> None:
    """Change fields of a release's self-check."""
    path = repository / CHECK.name / str(version) / SELF_CHECK
    changed = replace(read_self_check(path), **changes)
    with path.open("wb") as file:
        changed.write(file)


@pytest.fixture(scope="session")
def golden() -> Golden:
    folder = DATA / "golden" / "small"
    with np.load(folder / "expected.npz") as arrays:
        expected = {name: arrays[name] for name in arrays.files}
    return Golden(folder, json.loads((folder / "case.json").read_text()), expected)


@pytest.fixture(scope="session")
def text_model(golden: Golden) -> TextModel:
    return read_text_model(golden.text_model)


@pytest.fixture(scope="session")
def checkpoint(golden: Golden, text_model: TextModel) -> Checkpoint:
    return load_checkpoint(golden.checkpoint, text_model, golden.geometry)


@pytest.fixture(scope="session")
def once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], Export]], Export]:
    """Export once for the run: workers of pytest-xdist take what one of them has made."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent

    def once(name: str, make: Callable[[Path], Export]) -> Export:
        own = folder / f"export-{name}"
        own.mkdir(exist_ok=True)
        kept = own / "export.pickle"
        with (own / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                kept.write_bytes(pickle.dumps(make(own / "model_repository")))
        return pickle.loads(kept.read_bytes())  # noqa: S301 (written above)

    return once


@pytest.fixture(scope="session")
def exported_in(
    checkpoint: Checkpoint,
    text_model: TextModel,
    golden: Golden,
    phantoms: Path,
    once: Callable[..., Export],
) -> Callable[[str], Export]:
    """The golden checkpoint in a precision, exported once for the run. Read-only.

    int8 has the ClassFine head, too, whose graph is the same in every precision.
    """

    def make(out: Path, precision: str) -> Export:
        source, calibration = checkpoint, None
        if precision == "int8":
            head, calibration = golden.folder / "ct_lipro.pt", phantoms
            source = load_checkpoint(golden.checkpoint, text_model, golden.geometry, head)
        return export_repository(
            source, text_model, golden.geometry, PUBLISHED_FINDINGS, out,
            precision=precision, calibration_folder=calibration,
        )  # fmt: skip

    return functools.cache(
        lambda precision: once(precision, functools.partial(make, precision=precision))
    )


@pytest.fixture(scope="session")
def repository(exported_in: Callable[[str], Export]) -> Path:
    """The golden checkpoint, exported. Read-only: copy it before changing anything."""
    return exported_in("fp32").repository


@pytest.fixture(scope="session")
def classfine(golden: Golden, text_model: TextModel) -> Checkpoint:
    """The golden ClassFine checkpoint: the same CT-CLIP, and a head."""
    return load_checkpoint(golden.folder / "ct_lipro.pt", text_model, golden.geometry)


@pytest.fixture(scope="session")
def classfine_repository(
    classfine: Checkpoint, text_model: TextModel, golden: Golden, once: Callable[..., Export]
) -> Path:
    """Every model there is: the ClassFine checkpoint, exported once for the run. Read-only."""
    return once(
        "classfine",
        lambda out: export_repository(
            classfine, text_model, golden.geometry, PUBLISHED_FINDINGS, out
        ),
    ).repository


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    """The exported repository, to be changed or damaged."""
    return Path(shutil.copytree(repository, tmp_path / "repository"))


@pytest.fixture(scope="session")
def phantoms(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of CT files, drawn: `ct0.nii.gz` … `ct3.nii.gz`. Read-only."""
    folder = tmp_path_factory.mktemp("phantoms")
    for seed in range(4):
        save_volume(folder / f"ct{seed}.nii.gz", chest_phantom(golden.geometry, seed))
    return folder


@pytest.fixture(scope="session")
def chest_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public chest CT, fetched once for the run. Read-only."""
    return fetch(CHEST_CT, tmp_path_factory.mktemp("chest_ct"))


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's vocabulary, fetched once for the run. Read-only."""
    return fetch(VOCABULARY, tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="session")
def needs_bfloat16() -> None:
    """Skips where OpenVINO finds no bf16 arithmetic."""
    try:
        require_bfloat16()
    except InvalidInput as error:
        pytest.skip(f"NOT RUN: {error.cause}")


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    """A real Triton that serves the golden checkpoint; started once for the whole run."""
    with EmbeddedTriton(repository, log=tmp_path_factory.mktemp("server") / "log") as triton:
        yield triton


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and a certificate of it for a server and for a client."""
    return Certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def openvino_server(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedTriton]:
    """The same with the encoders in OpenVINO, and with a log."""
    log = tmp_path_factory.mktemp("openvino") / "triton.log"
    with EmbeddedTriton(repository, config_name="openvino", log=log) as triton:
        yield triton
