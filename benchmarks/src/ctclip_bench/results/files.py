"""Results as files whose names say what they are of."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

from ctclip_bench.results.result import FORMAT, Result
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.system.files import placed

_FIGURES = 6
"""Significant figures that are kept of a number."""
_PARTS = (
    "device", "phases", "small", "graphs", "scenarios", "axes", "slices", "matrix",
    "upstream_findings",
)  # fmt: skip
"""Settings of a plan that make it another measurement, and not the same once more."""


def file_name(result: Result) -> str:
    """`<date>-<kind>-<GPU or processor>[-<release>][-<config>].json`; a failed one says so."""
    machine = result.machine["gpu"]["name"] if result.on_gpu else result.machine["processor"]
    parts = [
        result.date[:10],
        result.kind,
        slug(str(machine)),
        *(slug(str(result.subject[key])) for key in ("release", "config") if key in result.subject),
    ]
    return "-".join([*parts, *([] if result.passed else ["FAILED"])]) + ".json"


def keep(result: Result, folder: Path) -> Path:
    """Write the result into the folder, beside what lies there. Raises: InvalidInput."""
    return write_json(result.as_json(), free_path(folder / file_name(result)))


def read(path: Path) -> Result:
    """A kept result. Raises: Unreadable, InvalidInput."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unreadable(
            f"{path}: {error.strerror or error}.", "Name a JSON file of ctclip bench."
        ) from error
    except ValueError as error:
        raise Unreadable(f"{path}: it is no JSON ({error}).", "Name another file.") from error
    return Result.from_json(content, str(path))


def newest(folder: Path) -> list[tuple[Path, Result]]:
    """The newest that passed of each kind, machine, release's geometry, precision and config, and
    of the same parts of the measurement.

    Files of another format, such as a parity check's, are passed over.
    Raises: Unreadable, InvalidInput for a damaged one.
    """
    found: dict[str, tuple[Path, Result]] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            if json.loads(path.read_bytes()).get("format") != FORMAT:
                continue
        except (ValueError, AttributeError):
            pass  # `read` says what is wrong with it
        result = read(path)
        if not result.passed:
            continue
        about: list[Any] = [result.kind, result.machine_name]
        about += [result.plan.get(key) for key in _PARTS]
        about += [result.subject.get(key) for key in ("geometry", "precision", "config")]
        key = json.dumps(about)
        if key not in found or found[key][1].date <= result.date:
            found[key] = path, result
    return list(found.values())


def without_name(release: Mapping[str, Any]) -> dict[str, Any]:
    """A release without its checkpoint's file name."""
    checkpoint = {key: value for key, value in release["checkpoint"].items() if key != "name"}
    return {**release, "checkpoint": checkpoint}


def free_path(path: Path) -> Path:
    """The path, or with -2, -3, … where a file lies already: no measurement replaces another."""
    others = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return next(found for found in chain([path], others) if not found.exists())


def slug(text: str) -> str:
    """Lower case letters, digits and single hyphens: 'NVIDIA A100-SXM4' → 'nvidia-a100-sxm4'."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write the file as a whole or not at all; its folder is made. Raises: InvalidInput."""
    text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with placed(path) as file:
            file.write(text.encode("utf-8"))
    except OSError as error:
        raise InvalidInput(
            f"--out: cannot write {path}: {error.strerror or error}.",
            "Name a folder that can be written to.",
        ) from error
    return path


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: null. Numbers are cut to what a measurement can mean."""
    if isinstance(value, float):
        return float(f"{value:.{_FIGURES}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def check_folder(folder: Path) -> None:
    """Make the folder of results: better now than after an hour. Raises: InvalidInput."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        raise InvalidInput(
            f"--out: cannot make the folder {folder}: {error.strerror or error}.",
            "Name a folder that can be written to.",
        ) from error
    if not writable:
        raise InvalidInput(f"--out: {folder} cannot be written to.", "Name another folder.")
