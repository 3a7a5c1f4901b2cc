"""Which fields of a NIfTI header place its voxels in the patient, and what they say.

The sform decides where there is one, else the qform, as in nibabel and ITK. A field that is not in
force cannot veto one that is: where it cannot be decoded, a note says so. What is decoded takes the
defaults and the repairs of NIfTI's reference code (nifti1_io): qfac 0 is 1, and a quaternion longer
than 1 is shortened. Where readers differ, a field is refused if the answer hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import Unreadable
from ctclip_client.grid import AffineForm, Grid
from ctclip_client.readers.metadata import Row, is_ct_rate_by_name
from ctclip_client.readers.orientation import orientation_of
from ctclip_client.readers.remedies import AS_STORED, with_header
from ctclip_client.readers.to_volume import check_shear

if TYPE_CHECKING:
    from nibabel import Nifti1Header

_CODES = range(1, 6)
"""Spaces that NIfTI knows for a sform or qform; 0 and below: there is none."""
_SCANNER = 1
_MM_PER_UNIT = {0: Decimal(1), 1: Decimal(1000), 2: Decimal(1), 3: Decimal("0.001")}
_MILLIMETRES = 2
_CONVERTED = {1: "metres", 3: "microns"}
_SPATIAL_UNIT_BITS = 0x07
_SPACING_TOLERANCE = 0.01
_LONGEST_QUATERNION = 1.01
"""One that is 1 % too long turns by 16° at most otherwise than it should: too little to exchange
axes that are tilted by no more than `to_volume.LARGEST_TILT_DEG`."""
_LENGTH_BY_ROUNDING = 1 + 1e-5
_SLICE_AXIS = 2
_OVERLAPPING = (
    "dcm2niix has written such headers for overlapping slices, with the wrong direction of z, too: "
    "where it comes from there, convert the DICOM files again with another version. "
)
_CT_RATE = (
    "If it is a scan of CT-RATE, ask for it with the data set's table: metadata (--metadata "
    "train_metadata.csv or validation_metadata.csv). "
)
_AS_STORED_CODES = "LPS"
_AFFINE_BY_PIXDIM = (
    'a = h.get_sform(); a[:3, :3] *= h["pixdim"][1:4] / n.affines.voxel_sizes(a); h.set_sform(a)'
)


@dataclass(frozen=True)
class _Form:
    """A sform or qform. affine: (4, 4) in the header's unit; None where nothing can be decoded,
    for the reason `fault`. note: what was repaired."""

    name: str
    code: int
    affine: NDArray[np.float64] | None
    fault: str = ""
    note: str = ""

    @property
    def codes(self) -> str | None:
        """The patient's axes along the stored ones; None where it names none."""
        found = None if self.affine is None else orientation_of(self.affine)
        return None if found is None else found.codes

    @property
    def blank(self) -> bool:
        """What tools write that know of no orientation: the identity, and voxels of 1 mm."""
        return self.affine is not None and np.array_equal(self.affine, np.eye(4))


class Placement:
    """What a header says of the voxels' place. Decoding refuses nothing; `in_force` does."""

    def __init__(self, header: Nifti1Header) -> None:
        stated = int(header["xyzt_units"]) & _SPATIAL_UNIT_BITS
        # As every reader does. In another unit the spacing would be none of a CT's, and is refused.
        self._unit = stated if stated in _MM_PER_UNIT else _MILLIMETRES
        self._unit_note = ""
        if self._unit != stated:
            self._unit_note = (
                f"xyzt_units has unit code {stated}, none of NIfTI's; millimetres were taken."
            )
        elif stated in _CONVERTED:
            self._unit_note = f"The header is in {_CONVERTED[stated]}; the spacing was converted."
        self._pixdim: list[np.floating[Any]] = [abs(edge) for edge in header["pixdim"][1:4]]
        self._sform = _sform(header)
        self._qform = _qform(header, self._sform)

    def in_force(
        self, path: Path
    ) -> tuple[NDArray[np.float64], tuple[float, float, float], tuple[str, ...]]:
        """Affine to millimetres, spacing in millimetres along the stored axes, and notes.

        Raises:
            Unreadable: the header has no orientation, contradicts itself, or has a sheared grid.
        """
        form, other = self._preferred(path)
        affine, notes = form.affine, [form.note] if form.note else []
        if affine is None:
            raise Unreadable(
                f"{path}: the orientation is damaged: {form.fault}.", _choice(path, other)
            )
        if form.blank:
            raise Unreadable(
                f"{path}: a blank orientation in the header (identity affine, voxels of 1 mm).",
                _choice(path, other),
            )
        if other.code > 0:
            notes += self._compared(path, form, other)
        if (found := orientation_of(affine)) is not None:
            # Before the spacing: pixdim may have the step across the slices, which is shorter than
            # the affine's along the table, and neither is wrong then.
            check_shear(found, path)
        spacing, spacing_notes = self._spacing(path, affine)
        notes += spacing_notes
        notes += [self._unit_note] if self._unit_note else []
        if not np.isfinite(affine[:3, 3]).all():
            notes.append(
                f"The {form.name} does not say where the first voxel lies (NaN or infinity); "
                "scores do not need it, images that are laid on the scan do."
            )
        mm_per_unit = _MM_PER_UNIT[self._unit]
        affine = affine.copy()
        affine[:3] *= float(mm_per_unit)
        i, j, k = (float(edge * mm_per_unit) for edge in spacing)
        return affine, (i, j, k), tuple(notes)

    def contradicting(self, path: Path, row: Row) -> tuple[str, ...]:
        """Notes on what a row of CT-RATE's table is taken in spite of.

        The headers of its first generation are blank, and those of its second agree with the table.
        """
        try:
            affine, spacing_mm, _ = self.in_force(path)
        except Unreadable as error:
            if any(f.code in _CODES and not f.blank for f in (self._sform, self._qform)):
                why = error.cause.removeprefix(f"{path}: ")
                return (f"Where the header puts the scan was not looked at: {why}",)
            return ()
        notes = []
        z, x, y = row.spacing_mm
        if any(
            abs(edge - taken) > _SPACING_TOLERANCE * taken
            for edge, taken in zip(spacing_mm, (x, y, z), strict=True)
        ):
            header, table = (
                " × ".join(f"{edge:g}" for edge in edges) for edges in (spacing_mm, (x, y, z))
            )
            notes.append(
                f"The header has voxels of {header} mm along the stored axes; the metadata's "
                f"{table} mm was taken. Was the file resampled?"
            )
        found = orientation_of(affine)
        if found is not None and found.codes != _AS_STORED_CODES:
            notes.append(
                f"The header says that the stored axes run towards {found.codes}; with metadata "
                f"they are taken to run towards {_AS_STORED_CODES}, as in CT-RATE. Otherwise the "
                "patient is turned or mirrored."
            )
        return tuple(notes)

    def grid(self, shape: tuple[int, int, int]) -> Grid:
        """What an image on the same voxels needs, as good as the header has it."""
        sform, qform = (
            AffineForm.of(form.affine, form.code if form.code in _CODES else 0)
            for form in (self._sform, self._qform)
        )
        lengths = np.ones(3) if sform is None else _lengths(np.array(sform.affine))
        i, j, k = (
            float(edge) if _is_length(edge) else float(length)
            for edge, length in zip(self._pixdim, lengths, strict=True)
        )
        return Grid(shape=shape, pixdim=(i, j, k), unit=self._unit, sform=sform, qform=qform)

    def _preferred(self, path: Path) -> tuple[_Form, _Form]:
        """The form in force, and the other one."""
        if self._sform.code in _CODES:
            return self._sform, self._qform
        if self._qform.code in _CODES:
            return self._qform, self._sform
        raise Unreadable(
            f"{path}: no orientation in the header (sform_code is {self._sform.code}, qform_code "
            f"{self._qform.code}, expected 1 to 5 of one of them).",
            _choice(path, self._sform, self._qform),
        )

    def _compared(self, path: Path, form: _Form, other: _Form) -> list[str]:
        """Notes on the form that is not in force."""
        if other.affine is None:
            return [f"A damaged {other.name} was not used: {other.fault}."]
        if other.codes != form.codes:
            raise Unreadable(
                f"{path}: the header contradicts itself: {form.name} says {form.codes}, "
                f"{other.name} {other.codes or 'no axes'}.",
                _choice(path, form, other),
            )
        if other.code not in _CODES:
            return [
                f"{other.name}_code {other.code} is none of NIfTI's; the {form.name} was taken."
            ]
        return [other.note] if other.note else []

    def _spacing(self, path: Path, affine: NDArray[np.float64]) -> tuple[list[Decimal], list[str]]:
        """Along the stored axes, in the header's unit: pixdim, or else the sform's columns."""
        spacing, notes = [], []
        for axis, (edge, length) in enumerate(zip(self._pixdim, _lengths(affine), strict=True)):
            if not _is_length(edge):
                spacing.append(Decimal(f"{length:.6g}"))  # float32, but for the last digit
                notes.append(
                    f"pixdim[{axis + 1}] is {edge:g}, no length; the sform's was taken "
                    f"({length:.6g})."
                )
                continue
            if abs(length - float(edge)) > _SPACING_TOLERANCE * edge:
                lengths = ", ".join(f"{each:.6g}" for each in _lengths(affine))
                by_affine = with_header(path, f'h["pixdim"][1:4] = {lengths}')
                mm = float(_MM_PER_UNIT.get(self._unit, 1))
                known = _OVERLAPPING if axis == _SLICE_AXIS else ""
                raise Unreadable(
                    f"{path}: the header contradicts itself: pixdim says {edge * mm:g} mm along "
                    f"axis {axis}, the affine {length * mm:g} mm.",
                    f"{known}If the affine is right: {by_affine} "
                    f"If pixdim is: {with_header(path, _AFFINE_BY_PIXDIM)}",
                )
            spacing.append(_shortest_decimal(edge))
        return spacing, notes


def _sform(header: Nifti1Header) -> _Form:
    code = int(header["sform_code"])
    affine = np.eye(4)
    affine[:3] = [header[f"srow_{axis}"] for axis in "xyz"]
    if orientation_of(affine) is None:
        return _Form("sform", code, None, "the sform names no patient axis for every array axis")
    return _Form("sform", code, affine)


def _qform(header: Nifti1Header, sform: _Form) -> _Form:
    """The qform; where its qfac leaves the third axis open, towards where the sform says."""
    from nibabel.quaternions import quat2mat

    code, notes = int(header["qform_code"]), []
    alone = sform.code not in _CODES
    edges = np.abs(header["pixdim"][1:4].astype(np.float64))
    if not all(map(_is_length, edges)):
        values = ", ".join(f"{edge:g}" for edge in edges)
        return _Form("qform", code, None, f"pixdim[1:4] is {values}, expected three lengths")
    if alone and (header["pixdim"][1:4] < 0).any():  # ITK mirrors the axis, others do not
        notes.append("pixdim[1:4] has negative lengths; they were taken as positive.")
    vector = np.array([float(header[f"quatern_{axis}"]) for axis in "bcd"])
    length = float(np.linalg.norm(vector))
    if not length <= _LONGEST_QUATERNION:
        fault = f"the qform's quaternion has length {length:g}, expected at most 1"
        return _Form("qform", code, None, fault)
    if length > _LENGTH_BY_ROUNDING:
        notes.append(f"The qform's quaternion has length {length:.6g}; 1 was taken.")
    rest = 1 - length**2
    affine = np.eye(4)
    scalar = np.sqrt(rest) if rest > abs(header.quaternion_threshold) else 0.0
    turn = quat2mat([scalar, *vector])  # divides by the length
    affine[:3, :3] = turn * edges
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    qfac = stated = float(header["pixdim"][0])
    if stated not in (1, -1):
        if alone and stated < 0:  # nibabel takes 1, ITK -1
            fault = f"pixdim[0] (qfac) is {stated:g}, expected 1 or -1"
            return _Form("qform", code, None, fault)
        mirrored = None if alone else orientation_of(affine * [1, 1, -1, 1])
        qfac = -1.0 if mirrored is not None and mirrored.codes == sform.codes else 1.0
        if (stated, qfac) != (0, 1):
            notes.append(f"pixdim[0] (qfac) is {stated:g}, expected 1 or -1; {qfac:g} was taken.")
    affine[:, 2] *= qfac
    return _Form("qform", code, affine, note=" ".join(notes))


def _choice(path: Path, *forms: _Form) -> str:
    """Commands that leave one of the forms alone in the header; without one, what else to do."""
    commands = []
    for form in forms:
        if form.code > 0 and form.codes is not None and not form.blank:
            other = "qform" if form.name == "sform" else "sform"
            code = form.code if form.code in _CODES else _SCANNER
            fields = f'h["{form.name}_code"] = {code}; h["{other}_code"] = 0'
            commands.append(
                f"If the {form.name} ({form.codes}) is right: {with_header(path, fields)}"
            )
    of_ct_rate = _CT_RATE if is_ct_rate_by_name(path) else ""
    return " ".join(commands) or of_ct_rate + AS_STORED


def _lengths(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths: NDArray[np.float64] = np.linalg.norm(affine[:3, :3], axis=0)
    return lengths


def _is_length(edge: np.floating[Any] | float) -> bool:
    return bool(0 < edge < np.inf)


def _shortest_decimal(value: np.floating[Any]) -> Decimal:
    """The decimal that a float32 stands for: 0.9, not 0.8999999762 (sizes hang on it)."""
    narrow = np.float32(value)
    return Decimal(str(narrow if float(narrow) == float(value) else value))
