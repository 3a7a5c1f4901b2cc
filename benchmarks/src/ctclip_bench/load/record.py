"""What `ctclip_bench.gpu` still takes from here; `ctclip_bench.results.files` takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctclip_bench.results.files import check_folder, free_path, slug, without_name, write_json

__all__ = ["check_folder", "file_name", "free_path", "without_name", "write_json"]


def file_name(content: Mapping[str, Any], kind: str = "") -> str:
    """`<date>-<GPU or processor>-<release>-<config>[-<kind>].json`; a failed one says so."""
    machine = content["machine"]
    parts = [
        str(content["date"])[:10],
        slug(machine["gpu"]["name"] if machine.get("gpu") else machine["processor"]),
        content["release"]["release"],
        slug(content["config"]),
    ]
    parts += [kind] if kind else []
    return "-".join([*parts, *([] if content["passed"] else ["FAILED"])]) + ".json"
