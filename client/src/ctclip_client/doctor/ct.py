"""What `ctclip predict` would send of a CT file. Only voxels and geometry are ever shown.

Headers hold names and dates of patients (`descrip`, `db_name`, DICOM tags): nothing of them is
printed, and identifiers that a reader mentions are masked, since reports are pasted into tickets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ctclip_client.contract import PUBLISHED_GEOMETRY
from ctclip_client.coverage import coverage_notes, extent_mm, seen_mm
from ctclip_client.doctor.inspectors import DoctorOptions
from ctclip_client.doctor.report import Check, failed, not_run, passed, warned
from ctclip_client.doctor.subject import Subject
from ctclip_client.errors import Unreadable
from ctclip_client.readers import read_volume
from ctclip_client.readers.hounsfield import HU_RANGE, TISSUES_HU, sampled_hu, share_within
from ctclip_client.transport.endpoint import LARGEST_MESSAGE_BYTES
from ctclip_client.volume import Volume

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
_THICK_SLICE_MM = 5.0
_MESSAGE_OVERHEAD_BYTES = 1024
_UID = re.compile(r"\b\d+(?:\.\d+){4,}\b")


def inspect(subject: Subject, options: DoctorOptions) -> Iterator[Check]:
    """Read a CT and describe the volume.

    Raises:
        Unreadable: a file of which nothing says that it is a CT cannot be read as one.
        InvalidInput: the options contradict each other.
    """
    try:
        with options.stages.stage("Read the scan"):
            volume = read_volume(subject.path, **options.reading)
    except Unreadable as error:
        if not subject.certain:
            raise Unreadable(
                f"{subject.target}: no checkpoint, no model repository, and not readable as a CT: "
                f"{_masked(error.cause.removeprefix(f'{subject.target}: '))}",
                error.remedy,
            ) from error
        yield failed("read", _masked(error.cause), error.remedy)
        for name in ("orientation", "grid", "field of view", "hounsfield", "transport"):
            yield not_run(name, "The file could not be read.")
        return
    for check in (_read, _orientation, _grid, _field_of_view, _hounsfield, _transport):
        yield check(volume)
    if notes := [_masked(note) for note in volume.source.notes]:
        yield warned(
            "notes", " ".join(notes), "Look whether that is what you expect.", notes=notes
        )  # fmt: skip


def _read(volume: Volume) -> Check:
    shape = " × ".join(map(str, volume.voxels.shape))
    return passed(
        "read", f"{shape} voxels (z × x × y) of int16",
        shape=list(volume.voxels.shape), dtype=str(volume.voxels.dtype),
    )  # fmt: skip


def _orientation(volume: Volume) -> Check:
    found = volume.source.orientation
    detail = f"the file's axes run {found}; sent as z to S, x to L, y to P"
    if volume.source.turned:
        detail += f" ({volume.source.turned})"
    if found == "as stored":
        return warned(
            "orientation",
            "as stored: nothing in the file was trusted or turned.",
            "Leave --as-stored or --metadata away unless the array is known to run [x, y, z] "
            "towards L, P, S.",
            orientation=found,
        )  # fmt: skip
    return passed("orientation", detail, orientation=found)


def _grid(volume: Volume) -> Check:
    spacing = volume.spacing_mm
    edges = " × ".join(f"{edge:g}" for edge in spacing)
    text = f"spacing {edges} mm (z × x × y; {volume.source.spacing_source})"
    if spacing[0] > _THICK_SLICE_MM:
        return warned(
            "grid", f"{text}: slices are thick",
            "Take the thinnest reconstruction of the study: the model was trained on 1.5 mm.",
            spacing_mm=list(spacing),
        )  # fmt: skip
    return passed("grid", text, spacing_mm=list(spacing))


def _field_of_view(volume: Volume) -> Check:
    """By the published geometry: which server will be asked, nobody knows here."""
    shape = volume.voxels.shape
    extent = extent_mm(shape, volume.spacing_mm)
    seen = seen_mm(shape, volume.spacing_mm, PUBLISHED_GEOMETRY)
    text, box = (" × ".join(f"{length:.0f}" for length in each) for each in (extent, seen))
    kept = float(np.divide(seen, extent).prod())
    model = extent_mm(PUBLISHED_GEOMETRY.volume_shape, PUBLISHED_GEOMETRY.target_spacing_mm)
    values: dict[str, Any] = {
        "extent_mm": list(extent), "model_extent_mm": list(model), "kept_fraction": kept,
    }  # fmt: skip
    detail = f"{text} mm (z × x × y); the published model sees {box} mm, {kept:.0%} of it"
    if notes := coverage_notes(shape, volume.spacing_mm, PUBLISHED_GEOMETRY):
        return warned(
            "field of view", f"{detail}. {' '.join(notes)}",
            "Check the spacing, and that the chest lies in the middle of the series.", **values,
        )  # fmt: skip
    return passed("field of view", detail, **values)


def _hounsfield(volume: Volume) -> Check:
    """Values are plausible: `read_volume` refuses others. Here it is said what they are."""
    hu = sampled_hu(volume.voxels, volume.rescale)
    percentiles = {
        str(p): round(float(v), 2)
        for p, v in zip(_PERCENTILES, np.percentile(hu, _PERCENTILES), strict=True)
    }
    fractions = {name: round(share_within(hu, band), 5) for name, band in TISSUES_HU.items()}
    clipped = 1 - share_within(hu, HU_RANGE)
    slope, intercept = volume.rescale
    return passed(
        "hounsfield",
        f"slope {slope:g}, intercept {intercept:g} ({volume.source.hu_source}); percentiles "
        f"5/50/95: {percentiles['5']:.0f}/{percentiles['50']:.0f}/{percentiles['95']:.0f} HU; "
        f"air {fractions['air']:.0%}, lung {fractions['lung']:.0%}, soft tissue "
        f"{fractions['soft_tissue']:.0%}",
        slope=slope, intercept=intercept, hu_source=volume.source.hu_source,
        percentiles_hu=percentiles, fractions=fractions, clipped_fraction=round(clipped, 5),
    )  # fmt: skip


def _transport(volume: Volume) -> Check:
    nbytes = volume.voxels.nbytes
    fits = nbytes + _MESSAGE_OVERHEAD_BYTES <= LARGEST_MESSAGE_BYTES
    values: dict[str, Any] = {"bytes": nbytes, "fits_grpc_message": fits}
    if fits:
        return passed("transport", f"{nbytes / 1e6:.1f} MB, one gRPC message", **values)
    return warned(
        "transport", f"{nbytes / 1e6:,.0f} MB: more than the 2 GiB of a gRPC message",
        "Run the client on the server's machine, where it goes through shared memory, or crop "
        "the scan to the chest.", **values,
    )  # fmt: skip


def _masked(text: str) -> str:
    return _UID.sub("(UID)", text)
