"""A CT file: what would be sent, and nothing about the patient."""

from __future__ import annotations

import numpy as np
import pytest

from ctclip_client.contract import Geometry
from ctclip_export.samples.phantom import chest_phantom

from ..nifti_files import edit, save
from ..volume_files import save_itk, save_rad_chestct


def write(path, *, spacing_mm=(2.5, 0.9, 0.9), codes="LPS", **header):
    """A chest, stored as int16 with slope 1 and intercept −1024."""
    save(path, chest_phantom(Geometry((160, 200, 200))).voxels, spacing_mm, codes)
    return edit(path, **{"scl_slope": 1.0, "scl_inter": -1024.0} | header)


def test_a_scan_is_described_as_it_would_be_sent(doctor, tmp_path):
    outcome = doctor(write(tmp_path / "scan.nii", codes="LAS"))
    assert (outcome.code, outcome.report["kind"]) == (0, "ct")
    shape = outcome.check("read")["values"]["shape"]
    assert outcome.check("grid")["values"]["spacing_mm"] == [2.5, 0.9, 0.9]
    assert outcome.check("orientation")["values"]["orientation"] == "LAS"
    hounsfield = outcome.check("hounsfield")["values"]
    assert (hounsfield["slope"], hounsfield["intercept"]) == (1.0, -1024.0)
    assert hounsfield["percentiles_hu"]["5"] < -900
    assert 0 < hounsfield["fractions"]["soft_tissue"] < 1
    transport = outcome.check("transport")["values"]
    assert transport == {"bytes": 2 * int(np.prod(shape)), "fits_grpc_message": True}
    extent = outcome.check("field of view")["values"]["extent_mm"]
    assert extent == pytest.approx([n * e for n, e in zip(shape, (2.5, 0.9, 0.9), strict=True)])


def test_nothing_of_the_header_is_printed(doctor, tmp_path):
    scan = write(
        tmp_path / "scan.nii",
        descrip=b"DOE^JANE 19501231",
        db_name=b"DOE^JANE",
        aux_file=b"MRN-4711",
        intent_name=b"DOE^JANE",
    )
    assert b"DOE^JANE" in scan.read_bytes()
    for json in (True, False):
        outcome = doctor(scan, json=json)
        for secret in ("DOE", "JANE", "1950", "4711"):
            assert secret not in outcome.out + outcome.err


def test_thick_slices_and_scans_that_are_short_or_cut_are_warned_of(doctor, tmp_path):
    scan = write(tmp_path / "scan.nii", spacing_mm=(7.0, 0.9, 0.9))
    outcome = doctor(scan)
    assert (outcome.code, outcome.verdict("grid")) == (0, "WARN")
    assert outcome.verdict("field of view") == "WARN"
    assert "360 of" in outcome.check("field of view")["detail"]
    scan = write(tmp_path / "short.nii", spacing_mm=(0.5, 0.9, 0.9))
    assert doctor(scan).verdict("field of view") == "WARN"


def test_values_that_cannot_be_hounsfield_units_fail(doctor, tmp_path):
    scan = write(tmp_path / "scan.nii", scl_inter=0.0)
    outcome = doctor(scan)
    assert (outcome.code, outcome.verdict("read")) == (1, "FAIL")
    assert "Hounsfield" in outcome.check("read")["detail"]
    assert outcome.verdict("hounsfield") == "NOT RUN"
    outcome = doctor(scan, "--any-region")
    assert (outcome.code, outcome.verdict("orientation")) == (0, "PASS")
    assert "any region was asked for" in outcome.check("notes")["detail"]


def test_a_file_cut_short_fails(doctor, tmp_path):
    scan = write(tmp_path / "scan.nii")
    scan.write_bytes(scan.read_bytes()[:-1000])
    outcome = doctor(scan)
    assert (outcome.code, outcome.report["counts"]["FAIL"]) == (1, 1)
    assert "cut short" in outcome.check("read")["detail"]


def test_a_scan_is_read_as_predict_would_be_told_to(doctor, tmp_path):
    scan = write(tmp_path / "scan.nii", sform_code=0, qform_code=0)
    assert doctor(scan).code == 1
    outcome = doctor(scan, "--as-stored", "--spacing", "2.5,0.9,0.9", "--slope", 1, "--intercept",
                     -1024)  # fmt: skip
    assert (outcome.code, outcome.verdict("orientation")) == (0, "WARN")
    assert outcome.check("orientation")["values"]["orientation"] == "as stored"
    assert doctor(scan, "--as-stored").code == 2
    assert doctor(scan, "--slope", 1).code == 2


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha", "scan.npz"])
def test_every_format_is_described(doctor, tmp_path, name):
    phantom = chest_phantom(Geometry((160, 200, 200)))
    hu = (phantom.voxels - 1024).astype(np.int16)
    write_as = save_rad_chestct if name.endswith(".npz") else save_itk
    outcome = doctor(write_as(tmp_path / name, hu))
    assert (outcome.code, outcome.report["kind"]) == (0, "ct")
    assert "z is stored axis" in outcome.check("orientation")["detail"]
    whence = "RAD-ChestCT's own" if name.endswith(".npz") else "header"
    assert whence in outcome.check("grid")["detail"]


def test_a_scan_of_ct_rate_is_read_by_its_table(doctor, tmp_path):
    scan = write(tmp_path / "scan.nii", sform_code=0, qform_code=0, scl_slope=0.0)
    table = tmp_path / "metadata.csv"
    table.write_text(
        "VolumeName,RescaleSlope,RescaleIntercept,XYSpacing,ZSpacing\n"
        'scan.nii.gz,1,-1024,"[0.9, 0.9]",2.5\n'
    )
    outcome = doctor(scan, "--metadata", table)
    assert outcome.check("grid")["values"]["spacing_mm"] == [2.5, 0.9, 0.9]
    assert "metadata, line 2" in outcome.check("hounsfield")["values"]["hu_source"]
    assert doctor(scan, "--metadata", table, "--slope", 1, "--intercept", 0).code == 2
    assert doctor(scan, "--metadata", tmp_path / "absent.csv").code == 2


@pytest.mark.parametrize(
    ("name", "flags", "kind"),
    [
        ("a.pt", ("--slope", 0, "--intercept", 0), "--slope is for a CT"),
        ("a.pt", ("--timeout-s", 3), "--timeout-s is for a server"),
        ("a.pt", ("--tls-ca", "ca.pem"), "--tls-ca is for a server"),
        ("a.pt", ("--header", "a=b"), "--header is for a server"),
        ("a.nii", ("--text-model", "x"), "--text-model is for a checkpoint"),
        ("a.nii", ("--volume-shape", "1x1x1"), "--volume-shape is for a checkpoint"),
    ],
)
def test_options_of_another_subject_are_refused(doctor, tmp_path, name, flags, kind):
    (tmp_path / name).write_bytes(b"x")
    outcome = doctor(tmp_path / name, *flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert kind in outcome.err
