"""Build the engines on this GPU, then run the parity check with them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ctclip_bench.gpu.steps import (
    CTCLIP,
    PUTS_AWAY_S,
    Inputs,
    chosen_gpu,
    require_gpu,
    run,
)
from ctclip_bench.parity import ENGINE_STEP
from ctclip_bench.results.files import check_folder, free_path, slug, without_name, write_json
from ctclip_client.errors import EXIT_USAGE, CTClipError, InvalidInput
from ctclip_client.system.child import child
from ctclip_export.engines.target import TENSORRT, load_library


def check(inputs: Inputs) -> int:
    """Exit code 0 only if every step that ran passed, the engine's among them.

    Raises: CTClipError if the machine lacks something, or a step dies.
    """
    environment = chosen_gpu()
    gpu = require_gpu(
        "Run make gpu-check on the machine with the GPU that will serve.", environment
    )
    load_library(TENSORRT)
    inputs.check()
    check_folder(inputs.out)
    of = ("--repository", str(inputs.repository), "--target", "tensorrt")
    if code := run([*CTCLIP, "build-engines", *of], environment):
        return code
    found = run_parity(inputs, environment)
    complaint = engine_complaint(found)
    passed = found["passed"] and not complaint
    content = {
        **without_names(found, inputs.url),
        "passed": passed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": "tensorrt",
        "machine": {**found["machine"], "gpu": asdict(gpu)},
    }
    name = f"{slug(gpu.name)}-{content['release']['release']}-tensorrt-parity"
    file = f"{content['date'][:10]}-{name}{'' if passed else '-FAILED'}.json"
    path = write_json(content, free_path(inputs.out / file))
    print(f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}")
    for step in found["rungs"]:
        reason = f" — {step['reason']}" if step["reason"] else ""
        print(f"  {step['verdict']:8}{step['rung']}{reason}")
    print(f"Written: {path}")
    if complaint:
        raise CTClipError(complaint, "Nothing is known of these engines: do not serve them.")
    return 0 if passed else 1


def run_parity(inputs: Inputs, environment: Mapping[str, str]) -> dict[str, Any]:
    """What `ctclip parity --json` found, its progress before everyone's eyes.

    Raises: CTClipError if it ended otherwise than with a finished check.
    """
    url = ["--url", inputs.url] if inputs.url else []
    command = inputs.ctclip("parity", *url, "--json")
    with child(command, environment, grace_s=PUTS_AWAY_S, stdout=subprocess.PIPE) as process:
        text, _ = process.communicate()
    return read_parity(process.returncode, text)


def read_parity(code: int, text: str) -> dict[str, Any]:
    """The JSON that it printed.

    Raises: CTClipError where it came to no verdict, which exit codes 0 and 1 are, with its code.
    """
    remedy = "See what it said above; nothing was written."
    if code not in (0, 1):
        error = CTClipError(f"ctclip parity ended with exit code {code}.", remedy)
        error.exit_code = code if code > 0 else EXIT_USAGE
        raise error
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InvalidInput("ctclip parity printed no result.", remedy) from error
    return found


def without_names(found: Mapping[str, Any], url: str | None) -> dict[str, Any]:
    """The same without a server's address and without files' names, which may name patients."""
    steps = found["rungs"]
    if url is not None:
        steps = json.loads(json.dumps(steps).replace(url, "a running server"))
    release = without_name(found["release"])
    return {**found, "release": release, "rungs": steps, "scans": len(found["scans"])}


def engine_complaint(found: Mapping[str, Any]) -> str:
    """Why the engine cannot be said to have passed, "" if it has: NOT RUN is no pass."""
    engines = [step for step in found["rungs"] if step["rung"].startswith(ENGINE_STEP)]
    if not engines:
        return f"the check has no step '{ENGINE_STEP}'."
    bad = next((step for step in engines if step["verdict"] != "PASS"), None)
    return "" if bad is None else f"{bad['rung']}: {bad['verdict']}: {bad['reason'] or 'no reason'}"
