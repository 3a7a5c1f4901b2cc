"""Build the engines on this GPU, then climb the whole ladder with them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ctclip_bench.gpu.steps import (
    PUTS_AWAY_S,
    Inputs,
    chosen_gpu,
    ctclip,
    gpu_environment,
    require_gpu,
    require_tensorrt,
    run,
)
from ctclip_bench.load.record import check_folder, file_name, free_path, without_name, write_json
from ctclip_bench.parity import ENGINE_RUNG
from ctclip_client.errors import CTClipError
from ctclip_client.system.child import child
from ctclip_export.engines.gpu import Gpu


def check(inputs: Inputs) -> int:
    """Exit code 0 only if every rung that ran passed, the engine's among them.

    Raises: CTClipError if the machine lacks something, or a step dies.
    """
    environment = gpu_environment(chosen_gpu())
    gpu = require_gpu(
        "Run make gpu-check on the machine with the GPU that will serve.", environment
    )
    require_tensorrt()
    inputs.check()
    check_folder(inputs.out)
    repository = str(inputs.repository)
    build = ctclip("build-engines", "--repository", repository, "--target", "tensorrt")
    if code := run(build, environment):
        return code
    ladder = _parity(inputs, environment)
    content = {
        **without_names(ladder, inputs.url),
        "passed": ladder["passed"] and not engine_complaint(ladder),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": "tensorrt",
        "machine": {**ladder["machine"], "gpu": asdict(gpu)},
    }
    path = free_path(inputs.out / file_name(content, "parity"))
    write_json(content, path)
    _print(ladder, gpu)
    print(f"Written: {path}")
    if complaint := engine_complaint(ladder):
        raise CTClipError(complaint, "Nothing is known of these engines: do not serve them.")
    return 0 if ladder["passed"] else 1


def _parity(inputs: Inputs, environment: Mapping[str, str]) -> dict[str, Any]:
    """The ladder's JSON. Its exit code says nothing here: 1 is a result, and a death is seen."""
    url = ["--url", inputs.url] if inputs.url else []
    command = ctclip(
        "parity", "--repository", str(inputs.repository), *inputs.reference(), *url, "--json",
        *inputs.more,
    )  # fmt: skip
    done = climb_ladder(command, environment)
    return read_ladder(done.returncode, done.stdout)


def climb_ladder(
    command: list[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run `ctclip parity`, its progress before everyone's eyes and its JSON caught."""
    with child(command, environment, grace_s=PUTS_AWAY_S, stdout=subprocess.PIPE) as process:
        text, _ = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, text)


def read_ladder(code: int, text: str) -> dict[str, Any]:
    """What `ctclip parity --json` printed. Raises: CTClipError if that is no finished ladder."""
    remedy = "See what it said above; nothing was written."
    if code not in (0, 1):
        raise CTClipError(f"ctclip parity ended with exit code {code}.", remedy)
    try:
        ladder: dict[str, Any] = json.loads(text)
        passed, rungs = ladder["passed"], ladder["rungs"]
        _ = ladder["machine"], ladder["scans"], ladder["release"]["release"]
        _ = ladder["release"]["checkpoint"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CTClipError(f"ctclip parity printed no ladder ({error!r}).", remedy) from error
    if not rungs or passed != (code == 0):
        raise CTClipError(
            f"ctclip parity: exit code {code}, passed {passed}, {len(rungs)} rungs: that does not "
            "fit together.",
            remedy,
        )
    return ladder


def without_names(ladder: Mapping[str, Any], url: str | None) -> dict[str, Any]:
    """The same without a server's address and without files' names, which may name patients."""
    rungs = ladder["rungs"]
    if url is not None:
        rungs = [
            {
                k: v.replace(url, "a running server") if isinstance(v, str) else v
                for k, v in r.items()
            }
            for r in rungs
        ]
    release = without_name(ladder["release"])
    return {**ladder, "release": release, "rungs": rungs, "scans": len(ladder["scans"])}


def engine_complaint(ladder: Mapping[str, Any]) -> str:
    """Why the engine cannot be said to have passed, "" if it has: NOT RUN is no pass."""
    found = [rung for rung in ladder["rungs"] if rung["rung"].startswith(ENGINE_RUNG)]
    if not found:
        return f"the ladder has no rung '{ENGINE_RUNG}'."
    bad = next((rung for rung in found if rung["verdict"] != "PASS"), None)
    return "" if bad is None else f"{bad['rung']}: {bad['verdict']}: {bad['reason'] or 'no reason'}"


def _print(ladder: Mapping[str, Any], gpu: Gpu) -> None:
    print(f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}")
    for rung in ladder["rungs"]:
        reason = f" — {rung['reason']}" if rung["reason"] else ""
        print(f"  {rung['verdict']:8}{rung['rung']}{reason}")
