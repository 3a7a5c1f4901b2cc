"""The page of one scan: what was found, where, and what the model was given."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import PUBLISHED_GEOMETRY
from ctclip_client.errors import ServerError
from ctclip_client.report.findings import finding_rows
from ctclip_client.report.images import ct_image, maps_image
from ctclip_client.report.pages import render
from ctclip_client.report.pictures import STILL, WIDE, WINDOWS, Window, stills, thumbnails
from ctclip_client.report.view import Histogram, half_grid, histogram
from ctclip_client.results import Classification, Scores
from ctclip_client.system.terminal import printable
from ctclip_client.thresholds import Thresholds
from ctclip_client.volume import Volume

_HISTOGRAM_PX = (640, 140)


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known of a scan.

    name: what it is called. scores: of the server. recipe, timings_ms: as in the JSON of `ctclip
    predict`. relevance: (F, T, H', W') float32 in the order of the scores, None where there are no
    maps. mark: by which the page is known again (`report.mark`).
    """

    name: str
    scores: Classification
    recipe: Mapping[str, Any]
    timings_ms: Mapping[str, float]
    relevance: NDArray[np.float32] | None = None
    mark: str = ""


def scan_page(answer: Answer, volume: Volume, thresholds: Thresholds | None = None) -> bytes:
    """Return the page, UTF-8: one file that loads nothing.

    Raises: InvalidInput where Jinja2 or Pillow is not installed, or `thresholds` are of findings
    that the answer does not have.
    """
    scores, recipe = answer.scores, answer.recipe
    if thresholds is not None:
        thresholds.check_known(scores.findings)
    try:
        geometry, _ = scores.provenance.geometry()
        is_known = True
    except ServerError:  # it keeps that to itself: where a map would lie is not known
        geometry, is_known = PUBLISHED_GEOMETRY, False
        answer = replace(answer, relevance=None)
    view = half_grid(volume, geometry)
    rows = finding_rows([(name, value) for name, value, *_ in scores.rows()], thresholds)
    maps = "" if answer.relevance is None else maps_image(answer.relevance, geometry)
    ct, step_hu = ct_image(view)
    viewer, script = _text("viewer", "niivue.umd.js"), _text("templates", "scan.js")
    page = render(
        "ctclip_client.report", "scan.html",
        random_weights=scores.provenance.random_weights,
        name=printable(answer.name), mark=answer.mark,
        rows=rows,
        method=None if thresholds is None else printable(thresholds.method),
        by_sentences=isinstance(scores, Scores),
        is_known=is_known,
        windows=WINDOWS, still_window=_window(STILL), thumbnail_window=_window(WIDE),
        notes=[*map(printable, recipe["notes"]), *_unplaced(recipe)],
        stills=stills(view),
        thumbnails=thumbnails(volume, recipe["seen_mm"]),
        histogram=_drawn(histogram(volume)),
        card=list(_card(recipe)),
        recipe=list(_recipe(answer)),
        ct=ct, step_hu=step_hu, maps=maps,
        data={"maps": _about_maps(answer), "largest": _largest(answer)},
        licences=_text("viewer", "THIRD_PARTY.txt"), viewer=viewer, script=script,
        script_hashes=[_hash(viewer), _hash(script)],
    )  # fmt: skip
    return page.encode("utf-8", "backslashreplace")


def _unplaced(recipe: Mapping[str, Any]) -> Iterator[str]:
    if recipe["orientation"] in ("as stored", "array"):
        yield (
            "The scan was taken as it is stored: nothing told how the patient lay. R, L, A, P, S "
            "and I say which side the model takes each for."
        )


def _about_maps(answer: Answer) -> list[dict[str, Any]]:
    """Of each map: its finding, and what its tokens add up to."""
    if answer.relevance is None:
        return []
    totals = answer.relevance.sum((1, 2, 3), dtype=np.float64)
    return [
        {"finding": printable(name), "total": float(total)}
        for name, total in zip(answer.scores.findings, totals, strict=True)
    ]


def _largest(answer: Answer) -> list[float]:
    """Of each map, the largest absolute value."""
    if answer.relevance is None:
        return []
    largest: list[float] = np.abs(answer.relevance).max((1, 2, 3)).astype(float).tolist()
    return largest


def _card(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the model was given, as terms and what is said of them."""
    turned = f": {recipe['turned']}" if recipe["turned"] else ""
    yield "Orientation", printable(f"{recipe['orientation']}{turned}")
    edges = " × ".join(f"{edge:g}" for edge in recipe["spacing_mm"])
    size = " × ".join(map(str, recipe["shape"])) + " voxels of " if recipe["shape"] else ""
    source = printable(recipe["spacing_source"])
    yield "Grid (z × x × y)", f"{size}{edges} mm; spacing: {source}"
    slope, intercept = recipe["rescale"]
    scaling = f"HU = {slope:g} · stored value {'−' if intercept < 0 else '+'} {abs(intercept):g}"
    yield "Hounsfield units", f"{scaling}; {printable(recipe['hu_source'])}"
    if recipe["hu_percentiles"]:
        values = (f"{percent} %: {_signed(hu)}" for percent, hu in recipe["hu_percentiles"].items())
        yield "Percentiles", f"{', '.join(values)} HU"
    ends = (f"{axis} {low:.0f} to {high:.0f}" for axis, (low, high) in recipe["seen_mm"].items())
    if recipe["seen_mm"]:
        yield (
            "The model saw",
            f"{', '.join(ends)} mm, from the scan's foot end, right and front",
        )
    if recipe["series"]:
        yield "Series", printable(recipe["series"])
    if recipe["sha256"]:
        yield "SHA-256", recipe["sha256"]


def _recipe(answer: Answer) -> Iterator[tuple[str, str]]:
    """What answered, and how long it took."""
    scores, provenance = answer.scores, answer.scores.provenance
    yield "Release", printable(provenance.release)
    yield "Checkpoint", printable(provenance.checkpoint_name)
    yield "Its SHA-256", printable(provenance.checkpoint_sha256)
    yield "Precision", printable(provenance.precision)
    kind = scores.transport.kind.replace("_", " ")
    yield "Transport", f"{scores.transport.bytes / 1e6:.1f} MB by {kind}"
    stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in answer.timings_ms.items())
    yield "Milliseconds", printable(stages)


def _window(window: Window) -> str:
    level, width = window
    return f"{_signed(level)}/{width}"


def _signed(value: float) -> str:
    return f"{value:.0f}".replace("-", "−")


def _drawn(found: Histogram) -> dict[str, Any]:
    """The histogram as a path. Its heights are square roots: air and lung are most of a chest."""
    width, height = _HISTOGRAM_PX
    low, high = found.edges[0], found.edges[-1]
    at = (found.edges - low) / (high - low) * width
    top = height * (1 - np.sqrt(found.counts / max(found.counts.max(), 1)))
    steps = (
        f"L{left:.1f},{y:.1f}H{right:.1f}"
        for left, right, y in zip(at[:-1], at[1:], top, strict=True)
    )

    def place(hu: float) -> float:
        return round(float((hu - low) / (high - low) * width), 1)

    return {
        "path": f"M0,{height}{''.join(steps)}V{height}Z",
        "ticks": [(hu, round(100 * place(hu) / width, 1)) for hu in range(-1000, 1501, 500)],
        "clip": (place(-1000), place(1000)),
        "width": width, "height": height,
        "below": found.below, "above": found.above,
    }  # fmt: skip


@cache
def _text(folder: str, name: str) -> str:
    return (files("ctclip_client.report") / folder / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """As a Content-Security-Policy names a script that may run."""
    return f"sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
