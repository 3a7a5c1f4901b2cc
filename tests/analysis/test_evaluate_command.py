"""`ctclip evaluate`, as it is typed: what it judges, writes and refuses."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ctclip_analysis.predictions import read_predictions
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.thresholds import read_thresholds
from ctclip_server.embedded.server import EmbeddedTriton

from .evaluation_files import (
    FINDINGS,
    Files,
    Run,
    made,
    write_labels,
    write_long,
    write_table,
    write_wide,
)

Printed = pytest.CaptureFixture[str]


def test_the_json_says_everything(run: Run) -> None:
    result = run("--json")
    assert [each["finding"] for each in result["findings"]] == list(FINDINGS)
    files = made(21, 40)
    assert (result["cases"], result["files"]) == (len(files.names), len(files.names))
    assert result["patients"] == {
        "count": 40, "told_by": "names as CT-RATE's", "cases_alone": 0,
    }  # fmt: skip
    first = result["findings"][0]
    assert first["cases"] + first["unknown"] == len(files.names)
    assert result["mismatches"]["unknown_labels"]["Cardiomegaly"] == first["unknown"]
    assert set(first["auroc"]) == {"value", "low", "high", "left_out"}
    assert first["auroc"]["low"] < first["auroc"]["value"] < first["auroc"]["high"]
    assert "f1" not in first
    assert first["threshold"] is None
    assert result["thresholds"] is None
    assert result["predictions"]["precision"] == "fp32"
    assert (result["random_weights"], result["bootstrap"]["seed"]) == (False, 0)
    assert math.isclose(
        result["macro"]["auroc"]["value"],
        float(np.mean([each["auroc"]["value"] for each in result["findings"]])),
    )
    again = run("--json")
    assert {**again, "finished": 0} == {**result, "finished": 0}


def test_thresholds_are_fitted_on_one_file_and_applied_to_another(run: Run, folder: Path) -> None:
    out = run("--fit-thresholds", "t.json", name="train")
    assert "3 thresholds (youden): t.json" in out
    assert "Sensitivity" not in out
    assert "No thresholds, so no F1" in out
    fitted = read_thresholds(folder / "t.json").values
    result = run("--thresholds", "t.json", "--json")
    assert {each["finding"]: each["threshold"] for each in result["findings"]} == fitted
    assert result["thresholds"]["same_data"] is False
    assert 0 < result["macro"]["f1"]["value"] < 1
    assert "SAME DATA" not in run("--thresholds", "t.json")


def test_the_same_data_is_refused_or_said(run: Run, folder: Path) -> None:
    run("--fit-thresholds", "t.json", "--method", "f1")
    assert "fitted on" in run("--thresholds", "t.json", code=2)
    assert "fitted on" in run("--thresholds", "t.json", "--predictions", "int8.csv", code=2)
    page = folder / "p.html"
    for flags in (("--thresholds", "t.json"), ("--fit-thresholds", "u.json", "--method", "f1")):
        out = run(*flags, "--same-data", "--report", str(page))
        assert "THRESHOLDS FITTED ON THE SAME DATA" in out
        assert "THRESHOLDS FITTED ON THE SAME DATA" in page.read_text()
        result = run(*flags, "--same-data", "--json")
        assert result["thresholds"]["same_data"] is True
        assert "SAME DATA" in result["notes"][0]
    assert read_thresholds(folder / "u.json") == read_thresholds(folder / "t.json")


def test_thresholds_may_be_of_a_checkpoint_whose_name_is_no_utf_8(run: Run, folder: Path) -> None:
    write_long(folder / "p.csv", made(21, 40), checkpoint="Käse.pt")
    latin = (folder / "p.csv").read_text("utf-8").encode("latin-1")
    (folder / "p.csv").write_bytes(latin)
    run("--predictions", "p.csv", "--fit-thresholds", "t.json", "--report", "p.html", "--json")
    run("--thresholds", "t.json", "--same-data")


def test_scans_of_one_name_are_told_by_their_folders(run: Run, folder: Path) -> None:
    """Where each patient has a folder with a ct.nii.gz, the scans of other patients are others."""
    for split, seed in (("train", 31), ("valid", 32)):
        files = made(seed, 20)
        names = [f"{split}{at}/ct.nii.gz" for at in range(len(files.names))]
        named = Files(names, files.labels, files.scores)
        write_wide(folder / f"{split}.csv", named)
        write_labels(folder / f"{split}.labels.csv", named)
    run("--fit-thresholds", "t.json", name="train")
    assert run("--thresholds", "t.json", "--json")["thresholds"]["same_data"] is False
    assert "fitted on" in run("--thresholds", "t.json", name="train", code=2)


def test_parity_of_the_task(run: Run) -> None:
    out = run("--against", "valid.csv")
    assert "100.000% of the reference" in out
    assert "PASS at 99.9% of the reference" in out
    assert "--against has the content of --predictions" in out
    out = run("--predictions", "int8.csv", "--against", "valid.csv", code=1)
    for said in ("FAIL at 99.9%", "FAIL at 99%", "RANDOM WEIGHTS", "int8"):
        assert said in out
    out = run("--predictions", "int8.csv", "--against", "valid.csv", "--bar", "0.5")
    assert "PASS at 50%" in out
    assert "FAIL at 99.9%" in out
    result = run("--predictions", "int8.csv", "--against", "valid.csv", "--json", code=1)
    against = result["against"]
    assert (against["passed"], against["bars"]) == (False, {"0.999": False, "0.99": False})
    assert against["ratio"]["value"] < 0.99
    assert against["predictions"]["precision"] == "fp32"


def test_scans_are_the_mean_of_their_reconstructions(run: Run) -> None:
    files = made(21, 40)
    scans = dict.fromkeys(name.rpartition("_")[0] for name in files.names)
    result = run("--group", "scan", "--json")
    assert (result["cases"], result["files"]) == (len(scans), len(files.names))
    means = [
        np.mean([s for n, s in zip(files.names, files.scores, strict=True)
                 if n.startswith(f"{scan}_")], axis=0)
        for scan in scans
    ]  # fmt: skip
    labels = [files.labels[next(at for at, n in enumerate(files.names) if n.startswith(f"{s}_"))]
              for s in scans]  # fmt: skip
    for column, each in enumerate(result["findings"]):
        known = [(m[column], y[column]) for m, y in zip(means, labels, strict=True)
                 if not np.isnan(y[column])]  # fmt: skip
        errors = [(mean - label) ** 2 for mean, label in known]
        assert each["brier"]["value"] == pytest.approx(np.mean(errors))


def test_means_of_reconstructions_tie(run: Run, folder: Path) -> None:
    """In float64 (0.1 + 0.1 + 0.1) / 3 > 0.1, and 0.1 + 0.2 + 0.3 depends on the order."""
    scans = {1: (0.1,), 2: (0.1, 0.1, 0.1), 3: (0.1, 0.2, 0.3), 4: (0.3, 0.2, 0.1)}
    names = [f"valid_{scan}_a_{n}" for scan, each in scans.items() for n in range(len(each))]
    scores = np.repeat([[score] for each in scans.values() for score in each], 3, axis=1)
    labels = np.array([[float(name[6] in "14")] * 3 for name in names])
    files = Files(names, labels, scores)
    write_wide(folder / "p.csv", files)
    write_labels(folder / "l.csv", files)
    result = run("--predictions", "p.csv", "--labels", "l.csv", "--group", "scan", "--json")
    assert [each["auroc"]["value"] for each in result["findings"]] == [0.5] * 3


def test_what_does_not_match_is_listed(run: Run, folder: Path) -> None:
    files = made(21, 40)
    some = Files(files.names[2:], files.labels[2:], files.scores[2:])
    write_wide(folder / "wide.csv", some, ("Cardiomegaly", "Something else", "Emphysema"))
    labels = Files([*files.names[:-1], "valid_99_a_1.nii.gz"], files.labels, files.scores)
    write_labels(folder / "l.csv", labels)
    given = ("--predictions", "wide.csv", "--labels", "l.csv")
    assert run(*given, "--json")["mismatches"] == {
        "failed_scans": [],
        "scans_without_labels": [f"/data/{files.names[-1]}"],
        "labels_without_scans": [*files.names[:2], "valid_99_a_1.nii.gz"],
        "findings_without_labels": ["Something else"],
        "label_columns_without_findings": ["Lung nodule"],
        "unknown_labels": {
            name: int(np.isnan(files.labels[2:-1, at]).sum())
            for at, name in ((0, "Cardiomegaly"), (2, "Emphysema"))
        },
        "joined": {},
        "other_columns": {},
    }
    out = run(*given, "--report", "p.html")
    assert "Labelled scans without a prediction: 3 (" in out
    for text in (out, (folder / "p.html").read_text()):
        for name in ("Something else", "Lung nodule", "valid_99_a_1.nii.gz"):
            assert name in text


def test_patients_are_told_by_the_names_that_are_judged(run: Run, folder: Path) -> None:
    """One labelled scan with a name as CT-RATE's, which nobody has predicted."""
    names = [f"scan{at}.nii" for at in range(30)]
    files = made(24)
    judged = Files(names, files.labels[:30], files.scores[:30])
    write_wide(folder / "p.csv", judged)
    more = Files([*names, "valid_1_a_1.nii.gz"], files.labels[:31], files.scores[:31])
    write_labels(folder / "l.csv", more)
    result = run("--predictions", "p.csv", "--labels", "l.csv", "--json")
    assert result["patients"] == {
        "count": 30, "told_by": "nothing: each scan is a patient", "cases_alone": 30,
    }  # fmt: skip


def test_rad_chestct_has_one_column_for_two_findings(run: Run, folder: Path) -> None:
    findings = ("Arterial wall calcification", "Coronary artery wall calcification", "Lung nodule")
    scores = [[0.9, 0.1, 0.9], [0.1, 0.8, 0.2], [0.3, 0.2, 0.8], [0.2, 0.4, 0.1]]
    names = [f"trn0000{n}" for n in range(4)]
    files = Files([f"{name}.npz" for name in names], np.ones((4, 3)), np.array(scores))
    write_wide(folder / "p.csv", files, findings)
    rows = [[name, label, nodule] for name, label, nodule in zip(names, "1100", "1010",
                                                                 strict=True)]  # fmt: skip
    write_table(folder / "l.csv", [["NoteAcc_DEID", "calcification", "nodule"], *rows])
    given = ("--predictions", "p.csv", "--labels", "l.csv")
    result = run(*given, "--json")
    assert [each["finding"] for each in result["findings"]] == ["Lung nodule", "Calcification"]
    assert [each["auroc"]["value"] for each in result["findings"]] == [1, 1]
    assert result["mismatches"]["joined"] == {"Calcification": list(findings[:2])}
    assert result["mismatches"]["findings_without_labels"] == list(findings[:2])
    assert "4 files, 2 findings" in run(*given)
    assert "Nothing tells patients" in run(*given)
    run(*given, "--fit-thresholds", "t.json")
    assert list(read_thresholds(folder / "t.json").values) == ["Lung nodule"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--same-data"], "--same-data goes with"),
        (["--bar", "0.99"], "--bar goes with --against"),
        (["--method", "f1"], "--method goes with --fit-thresholds"),
        (["--thresholds", "absent.json"], "absent.json"),
        (["--thresholds", "valid.csv"], "not JSON"),
        (["--labels", "absent.csv"], "absent.csv"),
        (["--predictions", "absent.csv"], "absent.csv"),
        (["--against", "absent.csv"], "--against: absent.csv"),
        (["--against", "train.csv"], "names none of the"),
        (["--labels", "train.labels.csv"], "it has 'train_1_a_1.nii.gz'"),
        (["--report", "valid.csv"], "would be lost"),
        (["--report", "absent/x.html"], "absent"),
        (["--fit-thresholds", "valid.labels.csv"], "would be lost"),
        (["--fit-thresholds", "x.json", "--report", "x.json"], "would be lost"),
        (["--labels", "valid.csv"], "two rows for"),
        (["--predictions", "whole.csv", "--labels", "whole.csv"], "the content of --predictions"),
    ],
)
def test_what_is_refused(more: list[str], message: str, run: Run, folder: Path) -> None:
    (folder / "whole.csv").write_text("scan,A\na,1\nb,0\n")
    before = sorted(path.name for path in folder.iterdir())
    assert message in run(*more, code=2)
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("bar", ["0", "1.1", "nan", "x"])
def test_bars_that_are_none(bar: str, run: Run, capsys: Printed) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--predictions", "p", "--labels", "l", "--bar", bar])
    assert "expected a share above 0" in capsys.readouterr().err


def test_reconstructions_that_contradict_each_other(run: Run, folder: Path) -> None:
    names = ["valid_1_a_1.nii.gz", "valid_1_a_2.nii.gz", "valid_2_a_1.nii.gz"]
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], float)
    files = Files(names, labels, np.full((3, 3), 0.5))
    write_wide(folder / "p.csv", files)
    write_labels(folder / "l.csv", files)
    given = ("--predictions", "p.csv", "--labels", "l.csv")
    run(*given)
    said = run(*given, "--group", "scan", code=2)
    assert "reconstructions of valid_1_a have different labels for 'Lung nodule'" in said
    labels[1, 1] = np.nan  # one of them does not know: the other one does
    write_labels(folder / "l.csv", files)
    result = run(*given, "--group", "scan", "--json")
    assert result["findings"][1]["positives"] == 1
    plain = Files(["a.nii", "b.nii", "c.nii"], labels, files.scores)
    write_wide(folder / "p.csv", plain)
    write_labels(folder / "l.csv", plain)
    assert "no name tells which scan" in run(*given, "--group", "scan", code=2)


def test_thresholds_of_another_release_are_said(run: Run, folder: Path) -> None:
    run("--fit-thresholds", "t.json", "--group", "scan", name="train")
    content = json.loads((folder / "t.json").read_text())
    assert (content["fitted_on"]["group"], content["fitted_on"]["release"]) == ("scan", "r1")
    out = run("--thresholds", "t.json")
    assert "release r1, precision fp32, group scan, cases" in out
    assert "another release" not in out
    content["fitted_on"]["release"] = "r0"
    (folder / "t.json").write_text(json.dumps(content))
    assert "another release" in run("--thresholds", "t.json")
    del content["fitted_on"]
    (folder / "t.json").write_text(json.dumps(content))
    assert "does not say what they were fitted on" in run("--thresholds", "t.json")


def test_what_predict_writes_is_judged(
    server: EmbeddedTriton, phantoms: Path, tmp_path: Path, capsys: Printed
) -> None:
    """The whole way, from CT files to figures; one file is no CT."""
    scans = tmp_path / "scans"
    scans.mkdir()
    paths = sorted(phantoms.glob("*.nii.gz"))[:4]
    for path in paths:
        (scans / path.name).symlink_to(path)
    (scans / "broken.nii.gz").write_bytes(b"x")
    journal, table = tmp_path / "p.jsonl", tmp_path / "p.csv"
    written = ["--jsonl", str(journal), "--csv", str(table)]
    assert main(["predict", str(scans), "--url", server.grpc_url, *written]) == 3
    names = [entry.finding for entry in PUBLISHED_FINDINGS]
    rows = [[path.name, *[at % 2] * len(names)] for at, path in enumerate(paths)]
    labels = write_table(tmp_path / "l.csv", [["VolumeName", *names], *rows])
    results = []
    for file in (journal, table):
        capsys.readouterr()
        given = ["--predictions", str(file), "--labels", str(labels)]
        assert main(["evaluate", *given, "--json"]) == 0
        results.append(json.loads(capsys.readouterr().out))
    first, second = results
    assert first["findings"] == second["findings"]
    for key in ("release", "checkpoint", "precision", "random_weights"):
        assert first["predictions"][key] == second["predictions"][key]
        assert first["predictions"][key] is not None
    assert first["predictions"]["failed"] == [
        {"path": str(scans / "broken.nii.gz"), "kind": "Unreadable"}
    ]
    scores = read_predictions(table)
    for at, each in enumerate(first["findings"]):
        odd, even = scores.probabilities[1::2, at], scores.probabilities[::2, at]
        wins = [(p > n) + (p == n) / 2 for p in odd for n in even]
        assert each["auroc"]["value"] == pytest.approx(np.mean(wins))


def test_pipes_are_read_once(folder: Path) -> None:
    (folder / "t.json").write_text('{"kind": "ctclip-thresholds", "version": 1, "method": "mine", '
                                   '"thresholds": {"Emphysema": 0.4}}')  # fmt: skip
    done = subprocess.run(
        [
            "/bin/bash", "-c", '"$0" -m ctclip_client evaluate --predictions <(cat valid.csv) '
            "--labels <(cat valid.labels.csv) --thresholds <(cat t.json) --json "
            "--against <(cat valid.csv)",
            sys.executable,
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(json.loads(done.stdout)["findings"]) == len(FINDINGS)


def test_help_is_quick() -> None:
    heavy = "{'sklearn', 'scipy', 'matplotlib', 'numpy', 'jinja2', 'rich'}"
    code = (
        "import sys; from ctclip_client.cli.program import parsed\n"
        "parsed(['evaluate', '--predictions', 'p', '--labels', 'l'])\n"
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
