"""`ctclip bench file` and `ctclip bench growth` against a real Triton."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ctclip_bench.load.asking import INFER, PACK, READ, TO_VOLUME
from ctclip_bench.load.file import REST, STAGES, WHOLE, stages_ms
from ctclip_bench.load.growth import fit, resized
from ctclip_bench.load.run import Ran
from ctclip_bench.load.statistics import Spent
from ctclip_client import Volume, read_volume
from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

from .result_files import table, written


@pytest.fixture
def to(server: EmbeddedTriton, repository: Path, tmp_path: Path) -> list[str]:
    """Where to ask, and where the result goes."""
    base = ["--repository", str(repository), "--url", server.grpc_url]
    return [*base, "--out", str(tmp_path)]


# --- file ---


def test_stages_of_a_file_add_up_to_the_whole(
    to: list[str], phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = phantoms / "ct1.nii.gz"
    assert main(["bench", "file", str(scan), *to, "--repeats", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("PARITY PASS")
    assert scan.name not in printed
    found = written(tmp_path)
    assert (found["kind"], found["passed"]) == ("file", True)
    for name, transport in (("stages", "shared_memory"), ("stages by grpc", "grpc")):
        rows = table(found, name)
        assert {row["settings"]["transport"] for row in rows} == {transport}
        *stages, whole = rows
        assert [row["name"] for row in stages] == list(STAGES)
        assert all(row["times_ms"]["n"] == 2 for row in rows)
        total = sum(row["figures"]["mean_ms"] for row in stages)
        assert total == pytest.approx(whole["figures"]["mean_ms"], rel=1e-3)
        own = {row["name"]: row["times_ms"]["least"] for row in stages}
        # Of a millisecond in transport, Triton's clock and the client's may overlap.
        assert min(value for stage, value in own.items() if stage != "transport") > 0
        voxels = read_volume(scan).voxels.nbytes
        assert isinstance(whole["figures"]["bytes_sent"], int)  # a float is cut to six figures
        assert 0 <= whole["figures"]["bytes_sent"] - voxels <= 64
        assert whole["figures"]["client_core_s"] > 0
    assert [row["name"] for row in table(found, "processes")] == ["client"]


def test_time_that_nobody_explains_is_the_rest() -> None:
    ms = {READ: 10.0, TO_VOLUME: 2.0, PACK: 3.0, INFER: 80.0}
    known = {READ: 10, TO_VOLUME: 2, PACK: 3, REST: 85, WHOLE: 100}
    assert stages_ms(100.0, ms, {}) == known
    spent = {
        "ctclip_pathologies": Spent(requests=1),
        "ctclip_check": Spent(requests=1, queue=10**6, compute_infer=10**6),
        "ctclip_preprocess": Spent(requests=1, queue=2 * 10**6, compute_infer=13 * 10**6),
        "ctclip_vision": Spent(requests=1, queue=4 * 10**6, compute_output=34 * 10**6),
        "ctclip_findings": Spent(requests=1, compute_input=10**6),
    }
    stages = stages_ms(100.0, ms, spent)
    assert stages == {
        **known, "queue": 7, "preprocess": 13, "vision": 34, "score": 1, "transport": 25, REST: 5,
    }  # fmt: skip
    assert list(stages) == [*STAGES, WHOLE]
    others = {**spent, "ctclip_vision": Spent(requests=2)}  # somebody else's, too
    assert "vision" not in stages_ms(100.0, ms, others)


# --- growth ---


def test_growth_along_axes(
    to: list[str], phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--scan", str(phantoms / "ct0.nii.gz"), "--repeats", "2", "--quick", "--json"]
    assert main(["bench", "growth", *to, *flags, "--axes", "slices,prompts,clients"]) == 0
    found = written(tmp_path)
    assert json.loads(capsys.readouterr().out) == found
    assert (found["kind"], found["passed"]) == ("growth", True)
    assert list(found["plan"]["axes"]) == ["slices", "prompts", "clients"]
    for axis, values in found["plan"]["axes"].items():
        *points, last = table(found, axis)
        assert [row["settings"][axis] for row in points] == values
        assert all(row["times_ms"]["n"] == 2 for row in points)
        assert all(row["parity"]["verdict"] == "PASS" for row in points)
        assert last["name"] == "fit"
        assert {"fixed_ms", "per_unit_ms", "power"} <= set(last["figures"])
    slices = table(found, "slices")[:-1]
    sizes = {row["figures"]["bytes_sent"] // row["settings"]["slices"] for row in slices}
    assert len(sizes) == 1
    assert all(row["figures"]["preprocess_ms"] > 0 for row in slices)
    assert "scans_per_s" in table(found, "clients")[1]["figures"]


def test_growth_of_a_run_of_predict(
    to: list[str], server: EmbeddedTriton, phantoms: Path, tmp_path: Path
) -> None:
    flags = ["--scan", str(phantoms / "ct0.nii.gz"), "--repeats", "1", "--quick"]
    assert main(["bench", "growth", *to, *flags, "--axes", "scans"]) == 0
    *points, last = table(written(tmp_path), "scans")
    assert [row["settings"]["scans"] for row in points] == [1, 2]
    for row in points:
        assert row["parity"]["verdict"] == "PASS"
        figures = row["figures"]
        assert figures["client_core_s_a_scan"] > 0
        assert figures["scans_per_s"] > 0
        assert figures["shape_zxy"] == [24, 48, 48]
    assert last["figures"]["per_unit_ms"]
    ran = Ran((), 3.0, 1.0, 4.0)
    cores = len(os.sched_getaffinity(0))
    assert replace(ran, asked=(None,) * 2).figures() == {
        "scans_per_s": 2 / 3, "client_core_s_a_scan": 0.5, "server_core_s_a_scan": 2.0,
        "wall_of_bound": pytest.approx(3 / (5 / cores)),
    }  # fmt: skip


def test_what_takes_too_long_is_not_run_and_nothing_more_of_it(
    to: list[str], phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--scan", str(phantoms / "ct0.nii.gz"), "--limit-s", "0.002", "--quick"]
    assert main(["bench", "growth", *to, *flags, "--axes", "prompts"]) == 0
    first, second = table(written(tmp_path), "prompts")
    assert first["not_run"] == "no answer within --limit-s, 0.002 s"
    assert second["not_run"] == "a smaller one took longer than --limit-s"
    assert "no answer within --limit-s" in capsys.readouterr().out


def test_a_chest_of_another_size_is_the_same_chest() -> None:
    voxels = np.arange(4 * 6 * 8, dtype=np.int16).reshape(4, 6, 8)
    larger = resized(Volume.from_array(voxels, (3, 2, 1), (1, 0)), 8, 24)
    assert larger.voxels.shape == (8, 24, 24)
    assert larger.spacing_mm == pytest.approx((1.5, 0.5, 1 / 3))
    np.testing.assert_array_equal(larger.voxels[::2, ::4, ::3], voxels)
    assert larger.voxels.strides[1] == 2  # x fastest, as in a file
    thin = resized(Volume.from_array(voxels, (15, 2, 1), (1, 0)), 1, 6)
    assert thin.spacing_mm[0] < 20  # 60 mm are no header's


def test_a_fit_finds_what_the_times_were_made_of() -> None:
    found = fit([1, 2, 4, 8], [30.0, 50.0, 90.0, 170.0])
    assert (found["fixed_ms"], found["per_unit_ms"]) == pytest.approx((10, 20))
    assert fit([64, 128, 300], [64.0**2, 128.0**2, 300.0**2])["power"] == pytest.approx(2)
