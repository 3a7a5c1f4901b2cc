"""`ctclip bench graphs`: judged first, then timed, peers in the same run."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from ctclip_bench.graphs import measure as measure_module
from ctclip_bench.graphs.cases import case_of
from ctclip_bench.graphs.contenders import contenders
from ctclip_bench.graphs.measure import Plan, measure
from ctclip_bench.graphs.reasons import without_paths
from ctclip_bench.graphs.runners import OnnxRunner
from ctclip_bench.graphs.subject import Subject, read_subject
from ctclip_bench.graphs.torch_runner import missing_compiler
from ctclip_bench.parity.inputs import ParityInputs, read_inputs
from ctclip_bench.results.files import read
from ctclip_bench.results.result import Result, Row
from ctclip_client.cli.program import main
from ctclip_client.system.progress import Stages
from ctclip_export.graphs.run import run_onnx
from ctclip_export.graphs.score import classfine_graph
from ctclip_export.parity.providers import load_cuda_libraries
from ctclip_export.samples.phantom import chest_phantom
from ctclip_export.samples.scans import scans_in

from ..conftest import Golden
from ..linear_heads import drawn_head
from ..nifti_files import save_volume
from ..tiny_release import write_record

NAME = "patient-0815.nii.gz"
ROUNDS = 2


@pytest.fixture(scope="module")
def scans(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in ((5, NAME), (6, "b.nii.gz")):
        save_volume(folder / name, chest_phantom(golden.geometry, seed))
    return folder


@pytest.fixture(scope="module")
def inputs(repository: Path, scans: Path, golden: Golden) -> ParityInputs:
    return read_inputs(repository, scans_in(scans), golden.checkpoint, golden.text_model)


@pytest.fixture(scope="module")
def subject(inputs: ParityInputs) -> Subject:
    with Stages() as stages:
        return read_subject(inputs, stages)


def measured(inputs: ParityInputs, *graphs: str, **more: Any) -> Result:
    plan = Plan("cpu", graphs, 1, 10.0, **{"compile": False, **more})
    with Stages() as stages:
        return measure(inputs, plan, stages, small=True)


def test_every_graph_beside_its_peers(
    repository: Path,
    scans: Path,
    golden: Golden,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ceilings = measure_module.measure_ceilings("cpu", small=True)
    monkeypatch.setattr(measure_module, "measure_ceilings", lambda *_, **__: ceilings)
    flags = ["--scans", str(scans), "--rounds", str(ROUNDS), "--no-compile", "--upstream", "1"]
    code = main([
        "bench", "graphs", "--repository", str(repository), *flags, "--out", str(tmp_path),
        "--against", str(golden.checkpoint), "--text-model", str(golden.text_model),
    ])  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    assert NAME not in path.read_text() + printed
    assert printed.startswith("PARITY PASS\n  PASS against PyTorch fp32 — vision: ")
    for part in ("NOT RUN", "--no-compile", "roofline", "not measured", "PyTorch fp32, run well"):
        assert part in printed
    result = read(path)
    assert result.passed
    graphs = ("vision", "text", "preprocess", "score", "findings", "relevance")
    for graph in graphs:
        rows = {row.name: row for row in result.table(graph)}
        for name in ("ONNX Runtime fp32", "PyTorch fp32, eager"):
            check_timed(rows[name], ROUNDS)
        assert rows["ONNX Runtime fp32"].figures["times_of_first"] == 1
    vision = {row.name: row for row in result.table("vision")}
    parity = vision["OpenVINO fp32"].parity
    assert parity is not None
    assert parity.codes_agree is not None
    assert parity.codes_agree >= 0.98
    assert vision["PyTorch fp32, compiled"].not_run == "--no-compile"
    check_tables(result, graphs)


def check_timed(row: Row, rounds: int) -> None:
    assert row.times_ms is not None, row
    assert row.parity is not None
    assert row.parity.verdict == "PASS"
    assert row.times_ms.n == rounds
    assert row.figures["share_of_limit"] > 0


def check_tables(result: Result, graphs: tuple[str, ...]) -> None:
    whole = result.table("whole scan")
    assert [row.name for row in whole] == [
        "ONNX Runtime fp32, the repository's graphs",
        "PyTorch fp32, run well",
        "PyTorch fp32, as upstream's script, 1 of 18 findings",
    ]
    for row in whole:
        assert row.times_ms is not None, row
        assert row.parity is not None
        assert {"read_ms", "preprocess_ms", "encode_ms"} <= set(row.figures)
    here = [r for r in result.table("roofline") if "datasheet" not in r.settings["device"]]
    assert [row.name for row in here] == list(graphs)
    assert {row.name for row in result.table("ceilings")} >= {"products, fp32", "copy"}


def test_without_a_checkpoint_the_graphs_are_their_own_reference(
    exported_in: Any, scans: Path
) -> None:
    inputs = read_inputs(exported_in("int8").repository, scans_in(scans), None, None)
    found = measured(inputs, "vision", "classfine")
    assert found.passed, found.verdicts
    rows = {(row.table, row.name): row for row in found.rows}
    check_timed(rows["vision", "ONNX Runtime int8"], 1)
    check_timed(rows["classfine", "ONNX Runtime fp32"], 1)
    assert "--against" in rows["vision", "PyTorch fp32, eager"].not_run
    (roofline,) = (
        row for row in found.rows if row.table == "roofline" and "measured c" in str(row.settings)
        and row.name == "vision"
    )  # fmt: skip
    assert roofline.settings["precision"] == "int8"


def test_a_linear_heads_reference_is_read_from_its_graph(
    subject: Subject, copied: Path, scans: Path, golden: Golden
) -> None:
    """It subtracts a mean where ClassFine has its ReLU."""
    file = copied / "ctclip_classfine" / "1" / "model.onnx"
    write_record(file.parent)
    (file.parents[1] / "config.pbtxt").write_text('name: "ctclip_classfine"')
    onnx.save(classfine_graph(*drawn_head(golden.checkpoint).arrays()), file)
    heads = read_subject(read_inputs(copied, scans_in(scans), None, None), Stages()).heads
    images = np.stack([answer.image_embedding for answer in subject.answers])
    got = heads.function("classfine")(torch.from_numpy(images))
    expected = run_onnx(file, {"IMAGE_EMBEDDING": images})["PROBABILITIES"]
    np.testing.assert_allclose(np.asarray(got), expected, rtol=0, atol=1e-6)


def test_what_answers_wrongly_has_no_times(copied: Path, scans: Path, golden: Golden) -> None:
    path = copied / "ctclip_findings" / "1" / "model.onnx"
    proto = onnx.load(path)
    bank = next(each for each in proto.graph.initializer if each.name == "prompt_embedding")
    values = onnx.numpy_helper.to_array(bank)
    bank.CopyFrom(onnx.numpy_helper.from_array(values[::-1].copy(), bank.name))
    onnx.save(proto, path)
    inputs = read_inputs(copied, scans_in(scans), golden.checkpoint, golden.text_model)
    found = measured(inputs, "score", "findings")
    assert not found.passed
    assert [verdict.verdict for verdict in found.verdicts] == ["PASS", "FAIL"]
    assert "ONNX Runtime fp32: parity: " in found.verdicts[1].reason
    rows = {(row.table, row.name): row for row in found.rows}
    assert rows["findings", "ONNX Runtime fp32"].times_ms is None
    check_timed(rows["findings", "PyTorch fp32, eager"], 1)
    check_timed(rows["score", "ONNX Runtime fp32"], 1)


@pytest.mark.slow
def test_a_compiled_peer_says_how_long_it_took_to_compile(inputs: ParityInputs) -> None:
    found = measured(inputs, "score", compile=True)
    (row,) = (row for row in found.rows if row.name == "PyTorch fp32, compiled")
    check_timed(row, 1)
    assert row.figures["compile_s"] > 0


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    assert "install g++" in missing_compiler("cpu")
    assert "install gcc" in missing_compiler("cuda")
    monkeypatch.setenv("CC", "gcc")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: "/nowhere")
    assert "Python.h" in missing_compiler("cuda")


def test_what_cannot_be_run_to_the_end_leaves_the_graphs(
    subject: Subject, scans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(f"no room for {scans / NAME}")

    monkeypatch.setattr(measure_module, "upstream_rows", broken)
    monkeypatch.setattr(measure_module, "read_subject", lambda *_: subject)
    found = measured(subject.inputs, "score", upstream_findings=1)
    assert not found.passed
    check_timed(next(row for row in found.rows if row.table == "score"), 1)
    (row,) = (row for row in found.rows if row.table == "whole scan")
    assert row.not_run == "OSError: no room for a path (broken)"
    assert [verdict.verdict for verdict in found.verdicts] == ["PASS", "FAIL"]


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("cannot load '/home/Jane Doe/m.onnx': bad", "cannot load a path: bad"),
        ("Load model from /data/p-0815/model.onnx failed", "Load model from a path failed"),
        ("/srv/Jane Doe/scans/a b.nii: no room", "a path: no room"),
        ("open scans/b.nii (read)", "open a path (read)"),
        ("(it is /tmp/a[Jane]/b:c.nii)", "(it is a path)"),
        (
            "CUDA/cuDNN at 3 / 4, https://example.org/x",
            "CUDA/cuDNN at 3 / 4, https://example.org/x",
        ),
    ],
)
def test_reasons_are_kept_without_paths(reason: str, kept: str) -> None:
    known = [Path("/srv/Jane Doe/scans/a b.nii"), Path("scans/b.nii"), None]
    assert without_paths(reason, known) == kept


def test_onnx_runtime_says_what_it_misses_beside_the_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("no cuDNN"), raising=False)
    load_cuda_libraries()
    assert capsys.readouterr() == ("", "no cuDNN\n")


def test_codes_that_differ_are_judged_by_the_runtimes_own_tokens(subject: Subject) -> None:
    case = case_of(subject, "vision")
    for one in contenders(case, "cpu"):
        if one.missing or one.precision != "fp32":
            continue
        for shown, answer in zip(one.tokens(subject.voxels), subject.answers, strict=True):
            assert answer.tokens is not None
            assert shown.shape == answer.tokens.shape
            # of unit length, and the reference's own
            assert np.abs(shown - answer.tokens).max() < 1e-5, one.name


def test_a_tie_is_forgiven_only_within_the_error_that_tokens_show(subject: Subject) -> None:
    outputs = []
    for answer, norm in zip(subject.answers, subject.norms, strict=True):
        assert answer.codes is not None
        image = answer.image_embedding[None]
        outputs.append({
            "CODES": answer.codes[None].copy(), "IMAGE_EMBEDDING": image, "IMAGE_NORM": norm,
        })  # fmt: skip
    tokens = subject.answers[0].tokens
    assert tokens is not None
    best = (torch.from_numpy(tokens) @ subject.codebook).topk(2, dim=-1)
    margins = best.values[:, 0] - best.values[:, 1]
    where = int(margins.argmin())
    outputs[0]["CODES"].reshape(-1)[where] = int(best.indices[where, 1])

    def shown(_: object) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """The second best code is as near as the best, for this runtime."""
        every = [answer.tokens.copy() for answer in subject.answers if answer.tokens is not None]
        first, second = (subject.codebook[:, index] for index in best.indices[where])
        away = second - first
        every[0][where] += 2 * float(margins[where]) * (away / away.norm() ** 2).numpy()
        return every

    judge = case_of(subject, "vision").judge
    without, _ = judge("r", "bf16", outputs)
    assert "more than twice the similarity's error" in without.reason
    assert judge("r", "bf16", outputs, shown)[0].verdict == "PASS"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(
    repository: Path,
    scans: Path,
    subject: Subject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    flags = ["--repository", str(repository), "--scans", str(scans), "--out", str(tmp_path)]
    assert main(["bench", "graphs", *flags, "--device", "cuda"]) == 2
    assert "this torch sees no GPU" in capsys.readouterr().err
    assert os.environ["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    case = case_of(replace(subject, model=None), "vision")
    every = contenders(case, "cuda")
    assert {one.runtime for one in every} == {"ONNX Runtime", "TensorRT", "PyTorch"}
    assert all(one.missing for one in every)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--graphs", "vision,eyes"], "got 'eyes', expected some of vision,text"),
        (["--graphs", "classfine"], "this release has no trained head"),
        (["--upstream"], "it needs --against and --text-model"),
        (["--against", "a.pt"], "--against and --text-model go together"),
        (["--rounds", "0"], "expected at least 1"),
    ],
)
def test_flags_that_cannot_be_meant(
    repository: Path,
    scans: Path,
    tmp_path: Path,
    flags: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["bench", "graphs", "--repository", str(repository), "--out", str(tmp_path)]
    try:
        code = main([*command, "--scans", str(scans), *flags])
    except SystemExit as error:  # argparse's way
        code = int(error.code or 0)
    assert code == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_onnx_runtime_repeats_itself(repository: Path, golden: Golden) -> None:
    """`bind` again gives the answers of the new inputs."""
    runner = OnnxRunner(repository / "ctclip_score" / "1" / "model.onnx")
    random = np.random.default_rng(3)
    print("seed 3")
    width = golden.case["dim_latent"]
    answers = []
    for _ in range(2):
        images, texts = (random.standard_normal((n, width)).astype(np.float32) for n in (1, 4))
        runner.bind({"IMAGE_EMBEDDING": images, "TEXT_EMBEDDING": texts})
        runner.run()
        answers.append(runner.outputs()["LOGITS"])
    assert not np.array_equal(*answers)
    assert [each.shape for each in answers] == [(1, 2, 2)] * 2
