"""Label files: what is read, what it is matched with, and what cannot be right."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctclip_analysis.label_names import RAD_CHESTCT, finding_of, plain
from ctclip_analysis.labels import Labels, read_labels
from ctclip_analysis.scan_names import (
    Reconstruction,
    match_names,
    patients_by_name,
    reconstruction,
    stem,
)
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.readers import SUFFIXES

FINDINGS = tuple(entry.finding for entry in PUBLISHED_FINDINGS)
UNKNOWN = float("nan")


def read(tmp_path: Path, text: str, findings: tuple[str, ...] | None = None) -> Labels:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return read_labels(path, findings)


def test_ct_rates_own_file(tmp_path: Path) -> None:
    rows = [["VolumeName", *FINDINGS], ["valid_1_a_1.nii.gz", *"01" * 9],
            ["valid_1_a_2.nii.gz", *"10" * 9]]  # fmt: skip
    written = io.StringIO()
    csv.writer(written).writerows(rows)
    labels = read(tmp_path, written.getvalue(), FINDINGS)
    assert labels.scans == ("valid_1_a_1.nii.gz", "valid_1_a_2.nii.gz")
    assert (labels.findings, labels.unused) == (FINDINGS, ())
    assert labels.values.tolist() == [[0, 1] * 9, [1, 0] * 9]
    assert labels.patients.ids == ("valid_1", "valid_1")
    everything = read(tmp_path, written.getvalue())
    assert everything.findings == FINDINGS
    np.testing.assert_array_equal(everything.values, labels.values)


def test_rad_chestcts_columns_are_ct_rates_findings(tmp_path: Path) -> None:
    text = (
        "NoteAcc_DEID,nodule,pleural_effusion,bronchial_wall_thickening,mass,calcification\n"
        "trn00001,1.0,0.0,1.0,1.0,0.0\n"
    )
    labels = read(tmp_path, text, (*FINDINGS, "Calcification"))
    assert dict(zip(labels.findings, labels.values[0], strict=True)) == {
        "Lung nodule": 1, "Pleural effusion": 0, "Peribronchial thickening": 1, "Calcification": 0,
    }  # fmt: skip
    assert labels.columns["Lung nodule"] == ("nodule",)
    assert labels.unused == ("mass",)
    assert labels.patients.alone == 1
    everything = read(tmp_path, text)
    assert everything.findings == (
        "nodule", "pleural_effusion", "bronchial_wall_thickening", "mass", "calcification",
    )  # fmt: skip


def test_ones_own_classes_keep_their_names(tmp_path: Path) -> None:
    """`fibrosis` may be of the liver; what a head calls it is still found in CT-RATE's labels."""
    own = read(tmp_path, "scan,Fibrosis,Nodule,Lung nodule\na,1,0,1\n")
    assert own.findings == ("Fibrosis", "Nodule", "Lung nodule")
    assert own.values.tolist() == [[1, 0, 1]]
    text = "VolumeName,Pulmonary fibrotic sequela,Lung nodule\na,1,0\n"
    judged = read(tmp_path, text, ("fibrosis", "nodule"))
    assert judged.values.tolist() == [[1, 0]]


def test_the_table_names_findings_that_there_are() -> None:
    assert set(RAD_CHESTCT.values()) <= set(FINDINGS)
    assert all(plain(column) == column for column in RAD_CHESTCT)
    assert [finding_of(name) for name in FINDINGS] == list(FINDINGS)


def test_a_finding_in_any_place_is_a_finding(tmp_path: Path) -> None:
    labels = read(
        tmp_path,
        "NoteAcc_DEID,nodule*left_upper,nodule*right_upper,opacity*lung,mass*lung,mass*liver\n"
        "a,0,1,0,0,0\nb,0,0,1,0,0\nc,,1,0,0,0\nd,0,,0,0,0\n",
        FINDINGS,
    )
    assert labels.findings == ("Lung nodule", "Lung opacity")
    expected = [[1, 0], [0, 1], [1, 0], [UNKNOWN, 0]]
    np.testing.assert_array_equal(labels.values, expected)
    assert labels.columns["Lung nodule"] == ("nodule*left_upper", "nodule*right_upper")
    assert labels.unused == ("mass",)


def test_a_columns_own_name_goes_before_another_word_for_it(tmp_path: Path) -> None:
    text = "scan,nodule,lung_NODULE\na,0,1\n"
    assert read(tmp_path, text, ("Lung nodule",)).values.tolist() == [[1]]
    assert read(tmp_path, text, ("Nodule",)).values.tolist() == [[0]]


def test_missing_values(tmp_path: Path) -> None:
    labels = read(tmp_path, "scan;A;B\nx;;1\ny;nan;0\n\nz;-1;NaN\nw;1.0;0.0\n", ("A", "B"))
    expected = [[UNKNOWN, 1], [UNKNOWN, 0], [UNKNOWN, UNKNOWN], [1, 0]]
    np.testing.assert_array_equal(labels.values, expected)


@pytest.mark.parametrize("column", ["patient", "patient_id", "PatientID", "MRN_DEID"])
@pytest.mark.parametrize("first", [True, False])
def test_a_column_tells_the_patient(column: str, first: bool, tmp_path: Path) -> None:
    text = f"{column},scan,A\np,valid_1_a_1,1\np,valid_2_a_1,0\n"
    if not first:
        text = f"scan,A,{column}\nvalid_1_a_1,1,p\nvalid_2_a_1,0,p\n"
    labels = read(tmp_path, text)
    assert labels.patients.ids == ("p", "p")
    assert labels.patients.told_by == f"column {column}"
    assert labels.scans == ("valid_1_a_1", "valid_2_a_1")
    assert (labels.findings, labels.values.tolist()) == (("A",), [[1], [0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,A\na.nii,2\n", r"row 2, column 'A': got '2', expected 0 or 1"),
        ("scan,A\nb,1\n\na.nii,yes\n", r"row 4, column 'A': got 'yes'"),
        ("scan,A\na.nii,0.5\n", "got '0.5'"),
        ("scan,A\na.nii\n", "row 2 has 1 cell, the header has 2"),
        ("scan,A\na.nii,1,1\n", "row 2 has 3 cells"),
        ("scan,A\na.nii,1\nb,0\na.nii,1\n", r"two rows for 'a.nii' \(2 and 4\)"),
        ("scan,A,a\nx,1,1\n", "the columns 'A' and 'a' are both 'A'"),
        ("scan,A\n,1\n", "row 2 names no scan"),
        ("scan,patient,A\nx,,1\n", "row 2 names no patient"),
        ("scan,patient,PATIENT,A\nx,1,1,1\n", "'patient' and 'PATIENT'"),
        ("VolumeName,volume_name,A\nx,1,1\n", None),
        ("scan,A\n", "no row below the header"),
        ("", "no table with a header"),
        ("\0,A\n", "no row below"),
        ('scan,A\n"a,1\n', "not a CSV"),
    ],
)
def test_labels_that_cannot_be_right(text: str, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert read(tmp_path, text, ("A",)).unused == ("volume_name",)
        return
    with pytest.raises(InvalidInput, match=message):
        read(tmp_path, text, ("A",))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"absent\.csv"):
        read_labels(tmp_path / "absent.csv")


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path: Path) -> None:
    assert read(tmp_path, "scan,A,age\nx,1,63\n", ("A",)).unused == ("age",)
    with pytest.raises(InvalidInput, match="column 'age'"):
        read(tmp_path, "scan,A,age\nx,1,63\n")


def test_names_of_ct_rate() -> None:
    assert reconstruction("/d/valid_12_b_3.nii.gz") == Reconstruction("valid_12", "valid_12_b")
    assert reconstruction("train_7_aa_1") == Reconstruction("train_7", "train_7_aa")
    for other in ("valid_1", "scan.nii.gz", "valid_1_a", "valid_1_a_1_x"):
        assert reconstruction(other) is None
    patients = patients_by_name(["valid_1_a_1", "valid_1_b_1", "train_1_a_1", "x.nii", "y.nii"])
    assert patients.ids == ("valid_1", "valid_1", "train_1", "x.nii", "y.nii")
    assert patients.alone == 2


@pytest.mark.parametrize(
    ("name", "short"),
    [("a/b.nii.gz", "b"), ("b.nii", "b"), ("b.npz", "b"), ("1.2.840.10008", "1.2.840.10008"),
     ("b.tar.gz", "b"), ("/x/study/", "study"), ("C:\\x\\b.dcm", "b"), ("b", "b"), ("/", "/")],
)  # fmt: skip
def test_what_of_a_path_is_the_name(name: str, short: str) -> None:
    assert stem(name) == short


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".dcm", ".NII", ".nii.bz2", ".mha.gz"])
def test_every_format_may_be_left_out_of_a_name(suffix: str) -> None:
    assert stem(f"/data/a.b{suffix}") == "a.b"


def test_files_are_matched_by_name_then_by_folder() -> None:
    scans = ["/data/p1/ct.nii.gz", "/data/p2/ct.nii.gz", "/data/v/valid_1_a_1.nii.gz", "alone.nii"]
    rows = ["valid_1_a_1", "p2/ct.nii.gz", "p1/ct", "absent.nii"]
    assert match_names(scans, rows) == [2, 1, 0, None]
    assert match_names(["p1/CT"], ["p2/CT"]) == [None]
    assert match_names(["/here/p1/CT"], ["/there/p1/CT"]) == [0]
    assert match_names(["/data/p1/ct.nii"], ["p1/ct.nii", "p2/ct.nii"]) == [0]
    assert match_names(["x/a.nii", "y/b.nii"], ["b.nii", "a.nii"]) == [1, 0]


def test_names_that_may_mean_two() -> None:
    with pytest.raises(InvalidInput, match=r"'ct\.nii' may be about 'p1/ct\.nii' or 'p2/ct\.nii'"):
        match_names(["p1/ct.nii", "p2/ct.nii"], ["ct.nii"])
    with pytest.raises(InvalidInput, match=r"'ct\.nii' may be about 'p1/ct\.nii' or 'p2/ct\.nii'"):
        match_names(["ct.nii"], ["p1/ct.nii", "p2/ct.nii"])
    with pytest.raises(InvalidInput, match="'p1/ct' is there twice"):  # two series of one file
        match_names(["p1/ct", "p1/ct"], ["p1/ct"])
    assert match_names(["p1/ct.nii", "p2/ct.nii"], ["p2/ct.nii", "p1/ct.nii"]) == [1, 0]
    with pytest.raises(InvalidInput, match="'/d/a' is there twice") as caught:
        match_names(["/d/a", "/d/a"], ["a"])  # two series of a folder
    assert "--series" in str(caught.value.remedy)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_the_order_of_rows_changes_nothing(seed: int, folders: bool) -> None:
    shuffle = random.Random(seed)
    rows = [f"{f'p{n % 3}/' if folders else ''}valid_{n}_a_1.nii.gz" for n in range(9)]
    scans = [f"/data/{row}" for row in rows]
    shuffle.shuffle(rows)
    shuffle.shuffle(scans)
    found = match_names(scans, rows)
    assert [f"/data/{rows[row]}" for row in found if row is not None] == scans
