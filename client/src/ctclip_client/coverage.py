"""How much of a scan the model sees: the middle of it, as large as the model's own grid."""

from __future__ import annotations

from ctclip_client.contract import Geometry

SHORT_MM = 150.0
"""A chest that shows both lungs is longer than this along z."""
NARROW_MM = 100.0
"""What is narrower along x or y shows no cross-section of a body."""
_AXES = ("z", "x", "y")
_LEAST_SHARE_SEEN = 0.98
"""Less is worth a word; the rest is a few slices, cut by rounding."""


def extent_mm(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
    """Edges of a grid in millimetres."""
    return tuple(count * edge for count, edge in zip(shape, spacing_mm, strict=True))


def seen_mm(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], geometry: Geometry
) -> tuple[float, ...]:
    """What the model sees of a scan along (z, x, y): all, or as much of its middle as fits."""
    box = extent_mm(geometry.volume_shape, geometry.target_spacing_mm)
    return tuple(map(min, extent_mm(shape, spacing_mm), box))


def kept_mm(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], geometry: Geometry
) -> dict[str, tuple[float, float]]:
    """From where to where the model sees a scan, in millimetres from its foot end (z), its right
    edge (x) and its front edge (y): the server resamples by whole voxels, and crops by them.

    Args: as in `coverage_notes`.
    """
    kept = {}
    for axis, count, edge, target, size in zip(
        _AXES, shape, spacing_mm, geometry.target_spacing_mm, geometry.volume_shape, strict=True
    ):
        resampled = max(int(count * (edge / target)), 1)
        start = max((resampled - size) // 2, 0)
        step_mm = count * edge / resampled
        end = min(start + size, resampled)
        kept[axis] = round(start * step_mm, 1), round(end * step_mm, 1)
    return kept


def coverage_notes(
    shape: tuple[int, ...], spacing_mm: tuple[float, ...], geometry: Geometry
) -> tuple[str, ...]:
    """Say where a scan is no whole chest to the model, one sentence each; nothing where it is.

    Args:
        shape, spacing_mm: of the volume, along (z, x, y).
        geometry: what the server's model sees (`Provenance.geometry`).
    """
    extent, seen = extent_mm(shape, spacing_mm), seen_mm(shape, spacing_mm, geometry)
    notes = [
        f"The scan is a single slice: 1 voxel of {edge:g} mm along {axis}."
        for axis, count, edge in zip(_AXES, shape, spacing_mm, strict=True)
        if count == 1
    ]
    if not notes and extent[0] < SHORT_MM:
        notes.append(
            f"The scan is {extent[0]:.0f} mm long from foot to head, which is short for a chest."
        )
    if 1 not in shape[1:] and min(extent[1:]) < NARROW_MM:
        notes.append(
            f"The scan is {extent[1]:.0f} × {extent[2]:.0f} mm (x × y), which is narrow for a "
            "chest; lung was not looked for in it."
        )
    low, high = kept_mm(shape, spacing_mm, geometry)["z"]
    cut = [
        f"{part:,.0f} of {whole:,.0f} mm along {axis}"
        + (f" ({low:,.0f} to {high:,.0f} from the foot end)" if axis == "z" else "")
        for axis, part, whole in zip(_AXES, seen, extent, strict=True)
        if part < _LEAST_SHARE_SEEN * whole
    ]
    if cut:
        notes.append(
            f"The model sees only the middle of the scan: {', '.join(cut)}. The rest has no "
            "influence on its answer."
        )
    return tuple(notes)
