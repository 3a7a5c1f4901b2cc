"""A measurement as JSON, in a file whose name says what it is of."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ctclip_bench.load.figures import Level
from ctclip_bench.load.measure import Measurement, Plan
from ctclip_bench.machine import describe_machine
from ctclip_client import InvalidInput, Volume
from ctclip_client.system.files import placed
from ctclip_export.engines.gpu import Gpu

FORMAT = 2
"""Raised whenever a key of the JSON changes its meaning. 2: `passed` is false, too, where a level
could not be measured."""


def as_json(
    found: Measurement,
    plan: Plan,
    volumes: Sequence[Volume],
    about: Mapping[str, Any],
    gpu: Gpu | None,
) -> dict[str, Any]:
    """Everything, verdict first. No file's name, which may name a patient: of scans only shapes and
    sizes, of the checkpoint its SHA-256.

    about: `release` (as PROVENANCE), `config`, `server`, `load_before`: the kernel's load average
    of the minute before, in busy cores; other work on this machine makes every latency longer.
    """
    agreement = found.agreement
    return {
        "passed": found.passed,
        "parity": {
            "verdict": "PASS" if found.right else "FAIL",
            "baseline": agreement.baseline,
            "bounds": asdict(agreement.bounds),
            "checks": [verdict.as_json() for verdict in agreement.verdicts],
            "wrong_answers_under_load": list(found.wrong),
        },
        "random_weights": about["release"]["checkpoint"]["random_weights"],
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "release": without_name(about["release"]),
        "config": about["config"],
        "server": about["server"],
        "scans": [
            {
                "shape_zxy": list(volume.voxels.shape),
                "spacing_mm": list(volume.spacing_mm),
                "bytes": volume.voxels.nbytes,
            }
            for volume in volumes
        ],
        "plan": asdict(plan),
        "whole_path": [_level(level) for level in found.whole_path],
        "arrivals": [_level(level) for level in found.arrivals],
        "vision": [_level(level) for level in found.vision],
        "texts": [_level(level) for level in found.texts],
        "memory": {
            "gpu": "no GPU" if gpu is None else found.gpu and asdict(found.gpu),
            "server_processes": found.process and asdict(found.process),
        },
        "notes": list(found.notes),
        "machine": {
            **describe_machine(),
            "load_before": about["load_before"],
            "gpu": gpu
            and {
                name: getattr(gpu, name)
                for name in ("name", "compute_capability", "memory_bytes", "driver")
            },
        },
    }


def without_name(release: Mapping[str, Any]) -> dict[str, Any]:
    """A release without its checkpoint's file name."""
    checkpoint = {key: value for key, value in release["checkpoint"].items() if key != "name"}
    return {**release, "checkpoint": checkpoint}


def _level(level: Level) -> dict[str, Any]:
    return {
        "name": level.name,
        **level.load,
        "n": level.n,
        "failure": level.failure or None,
        "errors": dict(level.errors),
        "wrong_answers": len(level.wrong),
        "latency_ms": level.latency_ms and _rounded(level.latency_ms),
        "throughput_per_s": round(level.throughput_per_s, 4),
        "units_per_request": level.units,
        "duration_s": round(level.duration_s, 3),
        "client_median_ms": _rounded(level.client_ms),
        "triton": level.stages
        and {name: spent.as_json() for name, spent in sorted(level.stages.items())},
    }


def _rounded(milliseconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in milliseconds.items()}


def file_name(content: Mapping[str, Any], kind: str = "") -> str:
    """`<date>-<GPU or processor>-<release>-<config>.json`; a failed one says so in its name.

    The embedded server computes on the processor, whatever GPU there is.
    """
    machine = content["machine"]
    on_gpu = machine.get("gpu") and content.get("server", {}).get("kind") != "embedded"
    parts = [
        str(content["date"])[:10],
        slug(machine["gpu"]["name"] if on_gpu else machine["processor"]),
        content["release"]["release"],
        slug(content["config"]),
    ]
    parts += [kind] if kind else []
    return "-".join([*parts, *([] if content["passed"] else ["FAILED"])]) + ".json"


def free_path(path: Path) -> Path:
    """The path, or with -2, -3, … where a file lies already: no measurement replaces another."""
    number = 1
    found = path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return found


def slug(text: str) -> str:
    """Lower case letters, digits and single hyphens: 'NVIDIA A100-SXM4' → 'nvidia-a100-sxm4'."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"


def write_json(content: Mapping[str, Any], path: Path) -> Path:
    """Write the file as a whole or not at all; its folder is made. Raises: InvalidInput."""
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
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


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


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
