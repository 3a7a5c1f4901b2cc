"""The default configs, made for CPUs, and the configs `gpu`, both in a real Triton on a CPU."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ctclip_client.release.members import read_members
from ctclip_client.transport.connection import Connection
from ctclip_export.graphs.run import run_onnx
from ctclip_export.samples.phantom import chest_phantom
from ctclip_server import EmbeddedTriton
from ctclip_server.releases.control import Control
from ctclip_server.releases.running import running_configs

from ..conftest import Golden
from .conftest import Caller

Asking = Callable[[EmbeddedTriton], Caller]


def encoded_at_once(ask: Caller, volumes: np.ndarray) -> tuple[int, int]:
    """Send volumes (N, 1, D, H, W) as N requests; return (inferences, executions) of them all."""
    before = ask.executions("ctclip_vision")
    with ThreadPoolExecutor(len(volumes)) as pool:
        codes = pool.map(lambda v: ask("ctclip_vision", "CODES", VOXELS=v[None]), volumes)
        assert all((each >= 0).all() for each in codes)
    deadline = time.monotonic() + 60
    while True:  # Triton counts a batch after it has answered
        inferences, executions = ask.executions("ctclip_vision")
        if inferences - before[0] >= len(volumes) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return inferences - before[0], executions - before[1]


def running_configs_of(triton: EmbeddedTriton, model: str) -> tuple[Path, ...]:
    """What a promotion takes for the files that this server runs with."""
    files = read_members(triton.repository).config_files(model)
    with Control(Connection(triton.grpc_url, 60)) as control:
        return running_configs(files, control.config(model))


def eight(golden: Golden) -> np.ndarray:
    volume = golden.expected["b1_volume"].astype(np.float32)
    return np.concatenate([volume] * 8)


def test_scans_are_encoded_one_by_one_on_cpus(
    server: EmbeddedTriton, caller: Asking, golden: Golden
) -> None:
    """A batch of scans takes as long there, and its memory is kept."""
    assert encoded_at_once(caller(server), eight(golden)) == (8, 8)


def test_the_gpu_config_takes_its_own_graph_and_joins_scans(
    repository: Path, server: EmbeddedTriton, caller: Asking, golden: Golden, tmp_path: Path
) -> None:
    """As many as a batch holds. It waits for them here, so that it takes no speed to fill one."""
    own = Path(shutil.copytree(repository, tmp_path / "repository"))
    config = own / "ctclip_vision" / "configs" / "gpu.pbtxt"
    waits = "dynamic_batching {\n  max_queue_delay_microseconds: 60000000"
    config.write_text(config.read_text().replace("dynamic_batching {", waits))
    scan = chest_phantom(golden.geometry).tensors()
    with EmbeddedTriton(own, config_name="gpu") as gpu:
        ask = caller(gpu)
        for model in ("ctclip_vision", "ctclip_preprocess"):
            chosen = {path.stem for path in running_configs_of(gpu, model)}
            assert chosen >= {"gpu"}
            assert "config" not in chosen
        voxels = ask("ctclip_preprocess", "VOXELS", **scan)
        inferences, executions = encoded_at_once(ask, eight(golden))
    graph = repository / "ctclip_preprocess" / "1" / "model_gpu.onnx"
    np.testing.assert_array_equal(voxels, run_onnx(graph, scan)["VOXELS"])
    default = caller(server)("ctclip_preprocess", "VOXELS", **scan)
    for model in ("ctclip_vision", "ctclip_preprocess"):
        assert [path.stem for path in running_configs_of(server, model)] == ["config"]
    np.testing.assert_allclose(voxels, default, rtol=0, atol=1e-6)
    assert (inferences, executions) == (8, 2)
