"""`ctclip bench gpu`, rehearsed on a CPU: where nothing is installed, resumed, cut short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.conftest import Golden

from ctclip_bench.cli.bench.gpu import NAMES, main
from ctclip_bench.gpu import run
from ctclip_bench.gpu.made import base_chest, vary
from ctclip_bench.gpu.phases import parity
from ctclip_bench.gpu.phases.triton import check_growth
from ctclip_bench.gpu.rows import NO_MEMORY, Missing, Rows, verdict_of
from ctclip_bench.gpu.run import Phase, run_phases
from ctclip_bench.gpu.sessions import CPU, CUDA, placement
from ctclip_bench.gpu.settings import Settings
from ctclip_bench.gpu.subject import Subject
from ctclip_bench.machine import describe_machine
from ctclip_bench.results.files import read, write_json
from ctclip_bench.results.result import Parity, Result, Row
from ctclip_client.errors import Unreadable

ROOT = Path(__file__).parents[2]
ABSENT = (
    "tritonclient", "nibabel", "onnxruntime", "openvino", "scipy", "rich", "psutil", "matplotlib",
    "mlperf_loadgen", "pytriton", "ctclip_server",
)  # fmt: skip
"""What a machine with a GPU and no package index may lack."""
CPU_FLAGS = ("--device", "cpu", "--small", "--runs", "1")
THREADS = "OMP_NUM_THREADS"
"""One is enough for small matrices: several wait for each other on cores that others use."""


def without(*packages: str) -> str:
    """The beginning of a program that cannot import them."""
    return f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder with `out` and `work` of a run in a Python without this project and most of what it
    needs.
    """
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(without(*ABSENT))
    sources = [str(ROOT / room / "src") for room in ("client", "export", "benchmarks")]
    done = subprocess.run(
        [
            sys.executable, "-m", "ctclip_bench.cli.bench.gpu", *CPU_FLAGS,
            "--only", "triton,machine,parity,onnx,transfer", "--out", "out", "--work", "work",
        ],
        env={**os.environ, THREADS: "1", "PYTHONPATH": os.pathsep.join([str(folder), *sources])},
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    return folder, done


def test_it_runs_where_little_more_than_torch_is(
    bare: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """What needs ONNX Runtime or Triton is NOT RUN there, and says so; nothing else is."""
    folder, done = bare
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "out").glob("*.json")
    found = read(path)
    assert str(path.name) in done.stdout
    assert found.plan["phases"] == ["machine", "parity", "onnx", "transfer", "triton"]
    reasons = {(row.table, row.name): row.not_run for row in found.rows if row.not_run}
    assert "onnxruntime" in reasons["onnx", "the whole phase"]
    assert "import of onnxruntime halted" in reasons["triton", "the whole phase"]
    assert "onnxruntime" in reasons["transfer", "preprocess and vision"]
    same, *_, twin = [row.parity for row in found.table("parity")]
    assert same is not None
    assert same.codes_agree == 1.0
    assert twin is not None
    assert twin.verdict == "PASS"
    assert {row.table for row in found.rows} == set(found.plan["phases"])
    machine = {row.name: row for row in found.table("machine")}
    assert machine["products, fp32"].figures["operations_per_s"] > 0
    assert machine["copy"].figures["bytes_per_s"] > 0
    assert machine["feed-forward products bf16, width 1408"].times_ms is not None
    (verdict,) = found.verdicts
    assert (verdict.verdict, verdict.reason) == ("PASS", "4 of 4 agree")
    assert all(read(each).plan["phase"] == each.stem for each in (folder / "out/phases").iterdir())


@pytest.mark.slow
def test_onnx_runtime_is_all_that_its_phases_need_besides() -> None:
    begin = without(*(name for name in ABSENT if name != "onnxruntime"))
    phases = "import ctclip_bench.gpu.phases.onnx, ctclip_bench.gpu.sessions"
    subprocess.run([sys.executable, "-c", begin + phases], check=True)


def test_a_phase_that_passed_is_not_run_again(
    bare: tuple[Path, subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With other settings or code it is, and what was NOT RUN; a file that is no result is none."""
    folder, _ = bare
    with_server = Settings("cpu", small=True, runs=1).code
    monkeypatch.setitem(sys.modules, "ctclip_server", None)  # as it was where the phase ran
    files = ["--out", str(folder / "out"), "--work", str(folder / "work")]
    phase = folder / "out" / "phases" / "parity.json"
    before = phase.stat().st_mtime_ns
    assert main(["--only", "machine,parity", "--json", *CPU_FLAGS, *files]) == 0
    printed = capsys.readouterr()
    assert "machine: there already" in printed.err
    assert "parity: there already" in printed.err
    assert {row["table"] for row in json.loads(printed.out)["rows"]} == {"machine", "parity"}
    assert phase.stat().st_mtime_ns == before
    settings = Settings("cpu", small=True, runs=1)
    machine = json.loads(json.dumps(describe_machine()))
    assert run.earlier(phase, "parity", settings, machine) is not None
    assert run.earlier(phase, "parity", replace(settings, runs=2), machine) is None
    assert run.earlier(phase, "parity", settings, {**machine, "cores": 1024}) is None
    assert run.earlier(phase.with_name("onnx.json"), "onnx", settings, machine) is None
    assert settings.code != with_server
    kept = read(phase)
    no_memory = Row("parity", "x", not_run=NO_MEMORY)
    for other in (replace(kept, passed=False), replace(kept, rows=(*kept.rows, no_memory))):
        write_json(other.as_json(), phase)
        assert run.earlier(phase, "parity", settings, machine) is None
    phase.write_text("{}")
    assert run.earlier(phase, "parity", settings, machine) is None


@pytest.mark.slow
def test_a_repository_is_measured_with_its_own_graphs(
    repository: Path,
    golden: Golden,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(THREADS, "1")
    code = main(
        [
            "--device", "cpu", "--runs", "2", "--repository", str(repository),
            "--against", str(golden.checkpoint), "--text-model", str(golden.text_model),
            "--only", "model,onnx,latency,transfer,triton",
            "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"),
        ]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert code == 0, said
    (path,) = (tmp_path / "out").glob("*.json")
    found = read(path)
    rows = {(row.table, row.name): row for row in found.rows}
    assert rows["model", "graph: vision fp32"].figures["of"] == "the repository"
    assert rows["model", "graph: preprocess for GPUs"].figures["of"] == "the repository"
    judged = [row for name in ("onnx", "latency") for row in found.table(name) if row.parity]
    assert {row.name for row in judged} == {
        "preprocess", "preprocess for GPUs", "vision fp32", "text", "score", "findings",
        "relevance", "text fp32, eager", "code search, float32",
        "code search, bfloat16, best 8 again in float32",
        *(f"vision {form}, batch {n}, eager" for form in ("fp32", "fp16", "bf16") for n in (1, 2)),
    }  # fmt: skip
    for row in (*judged, rows["triton", "one scan, client to findings"]):
        assert row.parity is not None
        assert (row.parity.verdict, row.times_ms is not None) == ("PASS", True), row.name
    refused = [row.name for row in found.table("onnx") if row.figures.get("refused")]
    assert len(refused) == 13
    assert rows["onnx", "vision fp32, guard: one voxel of NaN"].figures["marked"]
    assert rows["transfer", "preprocess and vision, VOXELS in place"].figures["voxels_on"] == "cpu"
    assert rows["triton", "inside Triton: vision"].figures["compute_infer_ms"] > 0
    assert found.subject["release"] in path.name


# --- a phase that fails, crashes or takes too long ---


MISBEHAVING = {
    "raises": "import os; rows.add('before', order=os.environ['CUDA_DEVICE_ORDER']); "
    "raise ValueError('so it is: /home/p-0815/x.nii')",
    "crashes": "import os; rows.add('before'); os.abort()",
    "hangs": "import time; rows.add('before'); time.sleep(60)",
    "late": "rows.add('never')",
}


@pytest.mark.slow
def test_no_phase_stops_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps the rows that it had, and its JSON says why it ended."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, body in MISBEHAVING.items():
        (tmp_path / f"phase_{name}.py").write_text(f"def measure(subject, rows):\n    {body}\n")
        least_s = 1e6 if name == "late" else 0
        monkeypatch.setitem(run.PHASES, name, Phase(f"phase_{name}", 1e-4, least_s))
    settings = Settings("cpu", work=tmp_path / "work")
    told: list[str] = []
    _, whole = run_phases(
        settings, list(MISBEHAVING), tmp_path / "out", 1e4, again=False,
        say=told.append,
    )  # fmt: skip
    assert not whole.passed
    assert [text for text in told if text.endswith(":")] == [f"{name}:" for name in MISBEHAVING]
    assert told.count("  before: ") == 2
    assert "  before: order PCI_BUS_ID" in told
    assert "p-0815" not in "".join(told) + (tmp_path / "out/phases/raises.json").read_text()
    rows = {name: whole.table(name) for name in MISBEHAVING}
    assert [len(each) for each in rows.values()] == [2, 2, 2, 1]
    assert all(each[0].name == "before" for each in list(rows.values())[:3])
    ends = [each[-1].not_run for each in rows.values()]
    assert "ValueError: so it is" in ends[0]
    assert "SIGABRT" in ends[1]
    assert "longer than its 1 s" in ends[2]
    assert "were left" in ends[3]
    kept = [read(tmp_path / "out" / "phases" / f"{name}.json").passed for name in MISBEHAVING]
    assert not any(kept)


def test_what_counts_as_failed() -> None:
    """A part that raises, and a verdict that is no PASS; not what this machine lacks."""
    told: list[tuple[Row, bool]] = []
    rows = Rows("t", lambda row, failed: told.append((row, failed)))

    wrong = Parity("FAIL", "x")
    with rows.attempt("lacks"):
        raise Missing("no such library")
    with rows.attempt("breaks"):
        raise RuntimeError("two\nlines")
    with rows.attempt("wrong"):
        rows.add("wrong", [1.0], parity=wrong)
    rows.add("wrong", [1.0], parity=wrong, host_to_host_ms=1.0, slices=1)
    rows.add("TF32", [1.0], parity=wrong, counted=False)
    assert [failed for _, failed in told] == [False, True, True, True, False]
    assert (told[3][0].times_ms, told[3][0].figures) == (None, {"slices": 1})
    assert told[4][0].times_ms is not None
    (verdict,) = verdict_of("t", [row for row, _ in told[2:]])
    assert (verdict.verdict, verdict.reason) == ("FAIL", "0 of 2 agree")
    assert verdict_of("t", [told[4][0]]) == ()
    assert told[0][0].not_run == "no such library"
    assert told[1][0].not_run.startswith("RuntimeError: two (test_what_counts_as_failed")


def test_nodes_that_fell_to_the_cpu_are_found_in_a_profile() -> None:
    def event(name: str, op: str, provider: str) -> dict[str, object]:
        told = {"op_name": op, "provider": provider}
        return {"cat": "Node", "name": f"{name}_kernel_time", "args": told}

    loop = event("body", "Gather", CPU)
    profile = [
        {"cat": "Session", "name": "model_run"}, event("product", "MatMul", CUDA), loop, loop,
        event("shape", "Shape", CPU), {"cat": "Node", "name": "product_fence_before", "args": {}},
    ]  # fmt: skip
    assert placement(profile) == {
        "kernel_runs": 4, "nodes_on_gpu": 1, "nodes_on_cpu": 2, "on_cpu": "Gather 1, Shape 1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only", "nothing"], "expected some of machine,model"),
        (["--limit-s", "nan"], "expected seconds, more than 0"),
        (["--runs", "0"], "expected at least 1"),
        (["--device", "cpu", "--repository", "x"], "go together here"),
        (["--device", "cpu", "--ct", "/nowhere.npz"], "there is no such file"),
        (["--device", "cpu", "--url", "host:1"], "are of check and serve"),
        (["check"], "--repository is missing"),
        (["check", "--repository", "x", "--small"], "--small is of the phases"),
        (["serve", "--repository", "x", "--limit-s", "9"], "--limit-s is of the phases"),
    ],
)
def test_bad_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(flags)
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_run_that_measured_nothing_has_not_passed(tmp_path: Path) -> None:
    """Nor one that --limit-s cut off. What the machine lacks is no failure beside what it has."""
    settings = Settings("cpu", small=True, work=tmp_path / "work")

    def passed(limit_s: float, *names: str) -> tuple[bool, list[str]]:
        told: list[str] = []
        _, whole = run_phases(
            settings, names, tmp_path / "out", limit_s, again=False, say=told.append
        )
        return whole.passed, told

    def keep(name: str, row: Row) -> None:
        plan, path = {"phase": name, **settings.plan()}, tmp_path / f"out/phases/{name}.json"
        write_json(Result("gpu", True, settings.subject(), plan, (row,)).as_json(), path)

    cut_off, told = passed(0.5, "machine")
    assert not cut_off
    assert "of --limit-s were left" in told[1]
    keep("transfer", Row("transfer", "a", not_run="no such library"))
    lacking, told = passed(9, "transfer")
    assert not lacking
    assert told[-1] == "Nothing was measured."
    keep("machine", Row("machine", "copy", figures={"bytes_per_s": 1e9}))
    assert passed(9, "machine", "transfer")[0]
    assert not passed(0.5, "machine", "transfer", "parity")[0]


@pytest.mark.parametrize("reason", ["", "no such library"])
def test_a_package_that_has_come_since_undoes_no_whole_phase(tmp_path: Path, reason: str) -> None:
    """It may be what a part that was NOT RUN has lacked; another version undoes any phase."""
    settings, path = Settings("cpu", small=True, work=tmp_path / "work"), tmp_path / "onnx.json"
    machine = {"cores": 2, "versions": {"torch": "2.11.0"}}
    plan = {"phase": "onnx", **settings.plan()}
    row = Row("onnx", "score", figures={"nodes": 1}, not_run=reason)
    result = Result("gpu", True, settings.subject(), plan, (row,), machine=machine)
    write_json(result.as_json(), path)

    def kept(**versions: str) -> bool:
        return run.earlier(path, "onnx", settings, {"cores": 2, "versions": versions}) is not None

    assert kept(torch="2.11.0")
    assert kept(torch="2.11.0", tritonclient="2.73.0") == (not reason)
    assert not kept(torch="2.12.0")
    assert not kept()


def test_tf32_is_on_for_the_encoder_alone(
    bare: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it a variation of the chest would be another volume than the reference's."""
    monkeypatch.setitem(sys.modules, "ctclip_server", None)
    monkeypatch.setattr(parity, "SEEDS", range(1))
    subject = Subject(Settings("cpu", small=True, runs=1, work=bare[0] / "work"))
    assert subject.made is None
    subject.chest = torch.linspace(-1, 1, 12 * 24 * 24).reshape(1, 1, 12, 24, 24)
    on: dict[str, bool] = {}
    make = Subject.volume

    def volume(self: Subject, seed: int) -> torch.Tensor:
        on["volume"] = torch.backends.cuda.matmul.allow_tf32
        return make(self, seed)

    def note(*_: object) -> None:
        on["encoder"] = torch.backends.cuda.matmul.allow_tf32

    with torch.no_grad():
        subject.expected(0)
        monkeypatch.setattr(Subject, "volume", volume)
        subject.on_device.vision.spatial.register_forward_pre_hook(note)
        told: list[Row] = []
        parity.with_tf32(subject, Rows("parity", lambda row, _: told.append(row)))
    assert on == {"volume": False, "encoder": True}
    assert told[0].parity is not None
    assert told[0].parity.codes_agree == 1


def test_models_that_are_not_on_the_gpu_are_noticed() -> None:
    check_growth(2.0, 1.1)
    with pytest.raises(RuntimeError, match="they run on the CPU"):
        check_growth(0.5, 1.1)


@pytest.mark.slow
def test_all_phases_rehearsed_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(THREADS, "1")
    files = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert main([*CPU_FLAGS, *files]) == 0
    (path,) = (tmp_path / "out").glob("*.json")
    found = read(path)
    assert found.plan["phases"] == list(NAMES)
    missing = {(row.table, row.name.partition(",")[0]) for row in found.rows if row.not_run}
    assert missing == {
        ("compile", "the whole phase"), ("transfer", "a scan"), ("transfer", "VOXELS"),
    }  # fmt: skip
    assert [verdict.verdict for verdict in found.verdicts] == ["PASS"] * 5


def test_every_phase_has_a_share_and_a_name() -> None:
    assert tuple(run.PHASES) == NAMES
    assert all(phase.least_s < 540 * phase.share for phase in run.PHASES.values())


def test_a_packed_chest_is_checked(tmp_path: Path) -> None:
    """Variations are the same for the same seed, within [−1, 1], and differ otherwise."""
    path = tmp_path / "chest.npz"
    np.savez_compressed(path, voxels=np.full((120, 240, 240), 255, np.uint8))
    chest = base_chest(path)
    first, again, other = (vary(chest, seed, (12, 24, 20)) for seed in (1, 1, 2))
    assert first.shape == (1, 1, 12, 24, 20)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.abs().max()) <= 1
    np.savez_compressed(path, voxels=np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(Unreadable, match="expected uint8"):
        base_chest(path)
    path.write_bytes(b"PK")
    with pytest.raises(Unreadable, match="--ct"):
        base_chest(path)
