"""What a finished parity check says: the table, AUROC, and the run that is kept."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from ctclip_bench.parity import ENGINE_STEP
from ctclip_bench.parity.inputs import read_inputs
from ctclip_bench.parity.labelled import ScanLabels, task_verdict
from ctclip_bench.parity.plan import planned_steps
from ctclip_bench.parity.report import as_json, as_page, auroc_lines, parity_table
from ctclip_bench.parity.run import FILES, FinishedCheck, run_parity
from ctclip_client.release.records import ReleaseRecord, read_model_record
from ctclip_client.system.progress import Stages
from ctclip_export.parity.judge import StepVerdict
from ctclip_export.samples.scans import Scan

WHERE = " at triton.radiology.hospital.example:8001"


@pytest.fixture(scope="module")
def release(repository: Path) -> ReleaseRecord:
    return read_model_record(repository / "ctclip_check" / "1").release


@pytest.fixture(scope="module")
def result(release: ReleaseRecord) -> FinishedCheck:
    verdicts = (
        StepVerdict(FILES, "PASS"),
        StepVerdict("ONNX fp16, ONNX Runtime", "PASS", "", 1, 0.99999, 1.2e-5, 3.4e-4, 0.999999,
                    0.999998, 1.5e-2, 2.5e-3, 0.999),
        StepVerdict("TensorRT engine", "NOT RUN", "no plan"),
        StepVerdict(f"served by Triton{WHERE}", "FAIL", f"codes{WHERE}", 1),
        StepVerdict(f"client, from a CT file{WHERE}", "NOT RUN", "no answer"),
    )  # fmt: skip
    return FinishedCheck(release, "PyTorch fp32", ("scan",), verdicts, engines={"m": "x"})


def printed(result: FinishedCheck, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(parity_table(result))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_verdicts_are_whole_and_nothing_is_cut(result: FinishedCheck, width: int) -> None:
    text = printed(result, width)
    ends = [line.rstrip().rpartition("  ")[2].strip() for line in text.splitlines()]
    assert [end for end in ends if end in ("PASS", "FAIL", "NOT RUN")] == [
        "PASS", "PASS", "NOT RUN", "FAIL", "NOT RUN",
    ]  # fmt: skip
    assert "…" not in text


def test_in_a_file_numbers_stand_on_one_line(result: FinishedCheck) -> None:
    for number in ("99.999%", "1.2e-05", "6.8e-04", "0.999999", "0.999998", "1.5e-02", "Spearman"):
        assert number in printed(result, 120)


def test_the_json_keeps_its_fields(result: FinishedCheck) -> None:
    content = as_json(result, None)
    assert list(content) == [
        "passed", "baseline", "release", "scans", "rungs", "auroc", "task", "machine",
    ]  # fmt: skip
    assert list(content["rungs"][0]) == [
        "rung", "verdict", "reason", "volumes", "codes_agree", "flipped_margin",
        "similarity_error", "cosine", "text_cosine", "logit_difference",
        "probability_difference", "spearman",
    ]  # fmt: skip
    assert content["release"]["checkpoint"]["variant"] == "v2"


def test_a_run_is_kept_without_addresses_and_without_the_file_check(result: FinishedCheck) -> None:
    run = result.as_run(WHERE.removeprefix(" at "), sample=True)
    assert [(step.name, step.verdict) for step in run.steps] == [
        ("ONNX fp16, ONNX Runtime", "PASS"),
        ("TensorRT engine", "NOT RUN"),
        ("served by Triton at --url", "FAIL"),
        ("client, from a CT file at --url", "NOT RUN"),
    ]
    assert "hospital" not in str(run)
    assert list(run.failures) == ["served by Triton at --url: codes at --url"]
    assert (run.passed, run.reference, run.scans, run.sample) == (False, "PyTorch fp32", 1, True)
    assert run.steps[0].figures["cosine"] == 0.999999


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "NOT RUN"])
def test_engines_are_named_where_they_ran(result: FinishedCheck, verdict: str) -> None:
    ran = replace(result, verdicts=(StepVerdict(ENGINE_STEP, verdict, "", 1),))
    assert ran.as_run().engines == ({} if verdict == "NOT RUN" else {"m": "x"})


@pytest.mark.parametrize("kinds", [(), ("PASS",)])
def test_the_file_check_alone_is_no_pass(result: FinishedCheck, kinds: tuple[str, ...]) -> None:
    verdicts = tuple(StepVerdict(FILES, kind) for kind in kinds)
    assert not replace(result, verdicts=verdicts).passed


def test_auroc_names_the_step_whose_scores_it_is(repository: Path, phantoms: Path) -> None:
    """Where higher ones did not run, it is not what is served."""
    inputs = read_inputs(repository, [Scan(phantoms / "ct0.nii.gz")], None, None)
    result = run_parity(inputs, Stages(), planned_steps(inputs)[:2])
    assert result.probabilities is not None
    findings = inputs.release.findings
    labels = ScanLabels(findings, np.ones((1, len(findings))), ("patient",))
    task = labels.compare(*result.probabilities)
    said = "AUROC of ONNX fp32, OpenVINO against ONNX fp32, ONNX Runtime:"
    assert auroc_lines(result, task)[0] == said
    assert "no verdict" in auroc_lines(result, task)[-1]
    assert "nan" not in " ".join(auroc_lines(result, task))
    assert {area["rung"] for area in as_json(result, task)["auroc"]} == {"ONNX fp32, OpenVINO"}
    assert said in as_page(result, task)


def test_a_verdict_of_two_scans_says_so(result: FinishedCheck) -> None:
    labels = ScanLabels(("A", "B"), np.array([[1.0, 1.0], [0.0, 1.0]]), ("one", "other"))
    scores = np.array([[0.9, 0.1], [0.2, 0.3]], np.float32)
    lines = auroc_lines(result, labels.compare(scores, scores))
    assert any("A: 1.0000 → 1.0000, difference +0.0000" in line for line in lines)
    assert "AUROC: n/a, as scans are of one class only: B." in lines
    assert any("PASS at 99.9%" in line for line in lines)
    assert lines[-1] == "No finding has many cases: the verdict may be due to chance."
    assert any(line.startswith("Fewer than 10 cases") and line.endswith(": A.") for line in lines)


@pytest.mark.parametrize(
    ("served", "verdict"), [([0.9, 0.2, 0.1], "PASS"), ([0.1, 0.2, 0.9], "FAIL")]
)
def test_a_task_that_is_done_worse_fails_the_check(
    result: FinishedCheck, served: list[float], verdict: str
) -> None:
    """Kept so, too: what is promoted is as good at the task."""
    good = replace(result, verdicts=(StepVerdict("ONNX fp32, OpenVINO", "PASS"),))
    labels = ScanLabels(("A",), np.array([[1.0], [0.0], [0.0]]), ("one", "other", "third"))
    baseline = np.array([[0.9], [0.2], [0.1]], np.float32)
    judged = task_verdict(labels.compare(baseline, np.array(served, np.float32)[:, None]), 3)
    assert judged.verdict == verdict
    kept = good.with_verdict(judged).as_run()
    assert kept.passed == (verdict == "PASS")
    assert list(kept.failures) == (
        [] if kept.passed else ["task: AUROC: 0.000% of the baseline's, allowed 99.9% or more"]
    )


def test_labels_of_one_class_judge_nothing() -> None:
    labels = ScanLabels(("A",), np.ones((2, 1)), ("one", "other"))
    scores = np.zeros((2, 1), np.float32)
    assert task_verdict(labels.compare(scores, scores), 2).verdict == "NOT RUN"
