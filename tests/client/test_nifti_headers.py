"""Headers as they are found, against nibabel's own answer.

Each change of a header is made to twelve: NIfTI-1 and NIfTI-2, both byte orders, and sform with
qform, sform alone or qform alone. Orientation, tilt, spacing and scaling are drawn anew for each.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.affines import voxel_sizes
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.quaternions import quat2mat

from ctclip_client import Unreadable
from ctclip_client.maps.images import Frame
from ctclip_client.readers.format import Options, Stored
from ctclip_client.readers.nifti import Nifti

SEED = 10
SHAPE = (3, 4, 2)
BOTH, SFORM, QFORM = "sform and qform", "sform", "qform"
IMAGES = {1: nibabel.Nifti1Image, 2: nibabel.Nifti2Image}
KINDS = list(itertools.product((1, 2), "<>", (BOTH, SFORM, QFORM)))
EDGES, REST = (1, 2, 3), (4, 5, 6, 7)
NAN, INF = float("nan"), float("inf")
Header = Any


@dataclass(frozen=True)
class Change:
    """A change of a header, and what shall come of it.

    meant: changes a copy of the header into one that nibabel reads as it is meant; by default
        nibabel reads the changed one. refused: for each form in force the words of a refusal.
    note: in these cases something is said. behind: the bytes between header and voxels.
    """

    name: str
    change: Callable[[Header], None]
    meant: Callable[[Header], None] | None = None
    refused: dict[str, str] | str | None = None
    note: str | None = None
    noted: tuple[str, ...] = (BOTH, SFORM, QFORM)
    behind: bytes = b""


def put(**fields: Any) -> Callable[[Header], None]:
    """Set fields that the version has; {index: value} sets parts of one."""

    def change(header: Header) -> None:
        for name, value in fields.items():
            if name not in header.structarr.dtype.names:
                continue
            if isinstance(value, dict):
                for index, part in value.items():
                    header[name][list(index) if isinstance(index, tuple) else index] = part
            else:
                header[name] = value

    return change


def half_turn(length: float) -> Callable[[Header], None]:
    """Turn the scan half around, nearly about one of its axes, by a quaternion of that length."""

    def change(header: Header) -> None:
        vector = np.array([0.05, -0.04, 1]) * length / np.linalg.norm([0.05, -0.04, 1])
        for axis, part in zip("bcd", vector, strict=True):
            header[f"quatern_{axis}"] = part
        if header["sform_code"] > 0:  # both say the same
            sform = np.eye(4)
            sform[:3, :3] = quat2mat([0, *vector]) * header["pixdim"][1:4]
            sform[:3, 2] *= header["pixdim"][0]
            header.set_sform(sform, int(header["sform_code"]))

    return change


def handed(stated: float, meant: int) -> Callable[[Header], None]:
    """Mirror the third axis so that qfac should be `meant`, and state another one."""

    def change(header: Header) -> None:
        for axis in "xyz":
            header[f"srow_{axis}"][2] *= header["pixdim"][0] * meant
        header["pixdim"][0] = stated

    return change


def mirrored(header: Header) -> None:
    """The sform mirrors an axis, the qform does not."""
    for axis in "xyz":
        header[f"srow_{axis}"][1] *= -1


def rounded(header: Header) -> None:
    """As nibabel makes NIfTI-2 of NIfTI-1: the quaternion is one of float32."""
    for axis in "bcd":
        header[f"quatern_{axis}"] = np.float32(header[f"quatern_{axis}"])


def qfac(value: float, **expected: Any) -> Change:
    return Change(f"qfac {value:g}", put(pixdim={0: value}), **expected)


PLACED = [
    Change("nothing", put()),
    Change("quaternion of float32", rounded),
    Change("qfac 0", handed(0, 1)),
    Change("qfac 0 for -1", handed(0, -1), note="-1 was taken", noted=(BOTH,)),
    qfac(3, note="qfac", noted=(BOTH, QFORM)),
    qfac(NAN, note="qfac", noted=(BOTH, QFORM)),
    qfac(INF, note="qfac", noted=(BOTH, QFORM)),
    qfac(-3, note="qfac", noted=(BOTH,), refused={QFORM: "qfac"}),
    *(Change(f"quaternion of {by}", half_turn(by), meant=half_turn(1)) for by in
      (1.0000001, 1.000001, 1.000009)),
    *(Change(f"quaternion of {by}", half_turn(by), meant=half_turn(1),
             note="quaternion has length", noted=(BOTH, QFORM)) for by in (1.0001, 1.001, 1.0099)),
    *(Change(f"quatern_{axis} {value:g}", put(**{f"quatern_{axis}": value}),
             note="quaternion has length", noted=(BOTH,), refused={QFORM: "quaternion"})
      for axis, value in itertools.product("bcd", (NAN, INF, 3, -1e30))),
    *(Change(f"pixdim[{axis}] negative", lambda h, axis=axis: put(
        pixdim={axis: -h["pixdim"][axis]})(h), note="negative", noted=(QFORM,))
      for axis in (1, 2, 3)),
    Change("all pixdim negative", lambda h: put(pixdim={EDGES: -h["pixdim"][1:4]})(h),
           note="negative", noted=(QFORM,)),
    *(Change(f"pixdim[{axis}] {value:g}", put(pixdim={axis: value}), note="no length",
             noted=(BOTH, SFORM), refused={QFORM: "three lengths"})
      for axis, value in ((1, 0), (2, NAN), (3, INF), (3, 0), (2, -INF))),
    Change("pixdim half a percent off", lambda h: put(pixdim={2: 1.005 * h["pixdim"][2]})(h)),
    Change("pixdim off", lambda h: put(pixdim={2: 1.1 * h["pixdim"][2]})(h),
           refused={BOTH: "pixdim says", SFORM: "pixdim says"}),
    Change("pixdim tiny", put(pixdim={1: 1e-30}),
           refused={BOTH: "pixdim says", SFORM: "pixdim says"}),
    *(Change(f"sform_code {code}", lambda h, code=code: h["sform_code"] > 0 and put(
        sform_code=code)(h), refused={SFORM: "no orientation"}) for code in (-1, -32768)),
    *(Change(f"sform_code {code}", lambda h, code=code: h["sform_code"] > 0 and put(
        sform_code=code)(h), refused={SFORM: "no orientation"}, note="none of NIfTI's",
             noted=(BOTH,)) for code in (6, 32767)),
    *(Change(f"sform_code {code}", lambda h, code=code: h["sform_code"] > 0 and put(
        sform_code=code)(h)) for code in range(1, 6)),
    *(Change(f"qform_code {code}", put(qform_code=code), refused={QFORM: "no orientation"})
      for code in (0, -1)),
    *(Change(f"qform_code {code}", put(qform_code=code), refused={QFORM: "no orientation"},
             note="none of NIfTI's", noted=(BOTH, SFORM)) for code in (6, 32767)),
    *(Change(f"srow_{axis} {value:g}", put(**{f"srow_{axis}": {0: value}}),
             refused={BOTH: "orientation is damaged", SFORM: "orientation is damaged"})
      for axis, value in (("x", NAN), ("y", INF), ("z", -INF))),
    Change("two axes towards one", lambda h: put(srow_x=h["srow_y"])(h),
           refused={BOTH: "names no patient axis", SFORM: "names no patient axis"}),
    Change("rows of zeros", put(srow_x=0, srow_y=0, srow_z=0),
           refused={BOTH: "orientation is damaged", SFORM: "orientation is damaged"}),
    Change("no origin", put(srow_y={3: NAN}, qoffset_x=NAN), note="does not say where"),
    Change("no origin of the sform", put(srow_y={3: NAN}), note="does not say where",
           noted=(BOTH, SFORM)),
    Change("no origin of the qform", put(qoffset_x=NAN), note="does not say where", noted=(QFORM,)),
    Change("sform mirrored", mirrored, refused={BOTH: "sform says .*, qform"}),
    *(Change(f"unit code {unit}", put(xyzt_units=unit), note="unit code")
      for unit in (4, 5, 6, 7, 5 + 8)),
    *(Change(f"unit code {unit}", put(xyzt_units=unit)) for unit in (0, 2, 8, 2 + 48, 2 + 64)),
]  # fmt: skip
ELSEWHERE = [
    *(Change(f"{name} {value!r:.20}", put(**{name: value})) for name, value in (
        ("bitpix", 99), ("cal_max", NAN), ("cal_min", -INF), ("glmax", -1),
        ("intent_code", 1007), ("intent_code", -9), ("intent_p1", NAN), ("slice_code", 77),
        ("dim_info", 255), ("slice_duration", NAN), ("toffset", NAN), ("slice_end", -4),
        ("descrip", b"\xff" * 80), ("session_error", 9), ("extents", 16384),
        ("pixdim", {REST: -3}), ("pixdim", {REST: NAN}),
        ("dim", {REST: 0}), ("dim", {REST: -7}), ("dim", {REST: 99}),
        ("dim", {0: 4, 4: 1}), ("dim", {0: 7, REST: 1}),
        ("scl_slope", 0), ("scl_slope", NAN), ("scl_slope", -2.5), ("scl_inter", 0),
    )),
    Change("sizeof_hdr", put(sizeof_hdr=0), meant=put()),  # nibabel looks there for NIfTI-2
    Change("no slope, no intercept", put(scl_slope=0, scl_inter=NAN)),
    Change("dim[4] 0", put(dim={0: 4, 4: 0}), meant=put(dim={0: 4, 4: 1})),
    Change("dim[5] 0", put(dim={0: 5, 4: 1, 5: 0}), meant=put(dim={0: 5, 4: 1, 5: 1})),
    Change("dim[3] 0", put(dim={3: 0}), refused="dim is"),
    Change("dim[4] -1", put(dim={0: 4, 4: -1}), refused="dim is"),
    Change("dim[4] 2", put(dim={0: 4, 4: 2}), refused="one volume of three axes"),
    Change("a larger offset", put(vox_offset=560)),
    Change("an offset that 16 does not divide", put(vox_offset=557)),
    Change("a damaged extension", put(vox_offset=560), meant=put(vox_offset=560),
           behind=b"\1\0\0\0\7\7\7"),
    *(Change(f"offset {value:g}", put(vox_offset=value), refused="vox_offset|cut short")
      for value in (0, -1, 340, 1e15)),
    Change("no line ends", put(eol_check=0)),
]  # fmt: skip


def drawn(version: int, order: str, forms: str, random: np.random.Generator) -> Header:
    """A header of a scan that is turned, tilted by some degrees, and off the origin."""
    header = (nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header)(endianness=order)
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.dtype(str(random.choice(["i2", "u1", "i4", "f4"]))))
    tilt = quat2mat([1, *random.uniform(-0.08, 0.08, 3)])
    turn = np.diag(random.choice([-1, 1], 3))[random.permutation(3)]
    edges = random.integers(30, 300, 3) / 100
    affine = np.eye(4)
    affine[:3, :3] = tilt @ turn * edges
    affine[:3, 3] = random.uniform(-200, 200, 3)
    header.set_qform(affine, 0 if forms == SFORM else int(random.integers(1, 5)))
    if forms == QFORM:
        header.set_sform(np.zeros((4, 4)), 0)
    else:
        header.set_sform(affine, int(random.integers(1, 5)))
    header["pixdim"][1:4] = edges
    header["scl_slope"], header["scl_inter"] = random.choice([1, 0.5]), random.choice([0, -1024])
    header["vox_offset"] = 352 if version == 1 else 544
    return header


def joined(header: Header, voxels: bytes, behind: bytes = b"") -> bytes:
    """A file. behind: what follows the header; voxels at an absurd offset are left out."""
    offset = int(header["vox_offset"]) if header["vox_offset"] < 1000 else 0
    content: bytes = (header.structarr.tobytes() + behind).ljust(offset, b"\0") + voxels
    return content


def read(path: Path, as_stored: bool = False) -> Stored:
    with np.errstate(all="ignore"):
        return Nifti().read(path, Nifti().series(path)[0], Options(as_stored=as_stored))


def close(got: Any, expected: Any, rtol: float, atol: float = 0.0) -> bool:
    return bool(np.isclose(got, expected, rtol, atol, equal_nan=True).all())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers") / "scan.nii"


@pytest.mark.parametrize("asked", [*PLACED, *ELSEWHERE], ids=lambda asked: asked.name)
def test_headers_say_what_nibabel_reads(asked: Change, path: Path) -> None:
    random = np.random.default_rng([SEED, *asked.name.encode()])
    for version, order, forms in KINDS:
        case = f"{asked.name}, NIfTI-{version} {order}, {forms}, seed {SEED}"
        header = drawn(version, order, forms, random)
        changed = copy.deepcopy(header)
        asked.change(changed)
        voxels = random.integers(0, 99, SHAPE).astype(header.get_data_dtype()).tobytes("F")
        content = joined(changed, voxels, asked.behind)
        path.write_bytes(content)
        words = asked.refused.get(forms) if isinstance(asked.refused, dict) else asked.refused
        if words:
            with pytest.raises(Unreadable, match=words) as caught:
                read(path)
            assert caught.value.remedy, case
            if asked in PLACED:
                assert read(path, as_stored=True).notes == (), case
            continue
        stored = read(path)
        if asked.meant is not None:
            asked.meant(header)
            content = joined(header, voxels)
        with LoggingOutputSuppressor(), np.errstate(all="ignore"):
            image = IMAGES[version].from_bytes(content)
        assert close(stored.affine, image.affine, 1e-6, 1e-6), (case, stored.affine, image.affine)
        spacing = voxel_sizes(image.affine)
        assert close(stored.spacing_mm, spacing, 6e-3), (case, stored.spacing_mm, spacing)
        zooms = np.array(image.header.get_zooms()[:3])
        if close(zooms, spacing, 0.01):  # else nibabel has made 1 of what is no length
            np.testing.assert_array_equal(np.float32(stored.spacing_mm), np.float32(zooms), case)
        assert (stored.rescale or (1, 0)) == (image.dataobj.slope, image.dataobj.inter), case
        unscaled = image.dataobj.get_unscaled().reshape(SHAPE)
        assert np.array_equal(stored.voxels(), unscaled), case
        notes = " ".join(stored.notes)
        expected = asked.note if asked.note and forms in asked.noted else ""
        assert (expected in notes) if expected else not notes, (case, notes)
        check_maps_lie_on(stored, case)


def check_maps_lie_on(stored: Stored, case: str) -> None:
    """An image on the scan's grid lies where the scan was read to lie.

    By 6e-4 of an edge at worst: what a float32 quaternion leaves of a turn by almost 180°.
    """
    grid = stored.grid
    assert grid is not None
    assert stored.affine is not None
    frame = Frame(grid.pixdim, grid.unit, grid.sform, grid.qform, "", 1.0)
    header = nibabel.Nifti1Header(frame.header(grid.shape)[:348])
    if np.isfinite(stored.affine).all():
        assert close(header.get_best_affine(), stored.affine, 2e-5, 2e-3), case
    else:
        assert header["sform_code"] == 0, case
    assert close(header.get_zooms(), stored.spacing_mm, 1e-5), case


def test_line_ends_that_were_converted_are_told(path: Path) -> None:
    header = drawn(2, "<", BOTH, np.random.default_rng(SEED))
    header["eol_check"] = 10, 26, 10, 0
    path.write_bytes(joined(header, bytes(999)))
    with pytest.raises(Unreadable, match="line ends"):
        read(path)


def test_nifti1_turned_into_nifti2_by_nibabel(path: Path) -> None:
    random = np.random.default_rng(SEED)
    for _ in range(60):
        one = drawn(1, "<", BOTH, random)
        image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), None, one)
        path.write_bytes(nibabel.Nifti2Image.from_image(image).to_bytes())
        stored = read(path)
        assert close(stored.affine, one.get_best_affine(), 1e-6, 1e-6), f"seed {SEED}"
        assert stored.notes == ()
