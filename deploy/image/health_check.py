#!/usr/bin/env python3
"""Ask a Triton whether it really answers: exit code 0 if it does, 1 and one line of cause if not.

Readiness is not enough: Triton may report a Python model as ready whose process is dead. So this
sends one request through each of the two Python processes, the second one through the text encoder,
too. Where `serve` has begun a self-check, it must have passed: that is read, not repeated, and no
patient waits for the image encoder. It takes the Python standard library only, and runs inside the
server's container.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

READY = "/v2/health/ready"
CHECK = "ctclip_check"
TEXT = "ctclip_text_embedding"
RESULT = Path(os.environ.get("TMPDIR") or "/tmp", "ctclip-self-check")  # noqa: S108 (as `serve` has it)
"""Where run_self_check.py leaves its result."""
LENGTH_TOLERANCE = 0.01
"""Text embeddings have length 1; half precision leaves it within this."""


class UnhealthyError(Exception):
    """The server does not answer, or not with what it should. status: of HTTP; 0 without one."""

    def __init__(self, cause: str, status: int = 0) -> None:
        super().__init__(cause)
        self.status = status


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; see the module."""
    parser = argparse.ArgumentParser(description="Health check of a CT-CLIP Triton by inference.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="Triton's HTTP port (%(default)s)")
    parser.add_argument("--timeout-s", type=float, default=20.0, help="for all checks together")
    parser.add_argument("--check-model", default=CHECK, help="(%(default)s)")
    parser.add_argument("--text-model", default=TEXT, help="(%(default)s)")
    options = parser.parse_args(arguments)
    server = TritonHttp(options.host, options.port, options.timeout_s)
    try:
        server.get(READY)
        check_metadata(server, options.check_model)
        check_text(server, options.text_model)
        check_result(RESULT)
    except UnhealthyError as error:
        print(f"health check: {error}", file=sys.stderr)
        return 1
    return 0


def check_metadata(server: TritonHttp, model: str) -> None:
    """A CT's usual spacing (mm) and rescale come back as they went in."""
    sent = {"SPACING": ("FP64", [1.5, 0.75, 0.75]), "RESCALE": ("FP32", [1.0, -1024.0])}
    got = server.infer(
        model,
        [
            {"name": name, "datatype": dtype, "shape": [len(data)], "data": data}
            for name, (dtype, data) in sent.items()
        ],
        list(sent),
    )
    for name, (_, data) in sent.items():
        if got[name] != data:
            raise UnhealthyError(f"{model}: {name} is {got[name]}, expected {data}")


def check_text(server: TritonHttp, model: str) -> None:
    """One sentence becomes one vector of length 1."""
    sentence = {"name": "TEXT", "datatype": "BYTES", "shape": [1], "data": ["Nodule is present."]}
    vector = server.infer(model, [sentence], ["TEXT_EMBEDDING"])["TEXT_EMBEDDING"]
    length = math.sqrt(sum(value * value for value in vector))
    # Written so that NaN, which compares with nothing, is refused.
    if not abs(length - 1.0) <= LENGTH_TOLERANCE:
        raise UnhealthyError(f"{model}: an embedding of length {length:g}, expected 1")


def check_result(path: Path) -> None:
    """Where a self-check was begun, it has passed, or there was none to make."""
    try:
        result = path.read_text("utf-8", "replace").strip()
    except FileNotFoundError:  # Triton was started by something else than `serve`
        return
    except OSError as error:
        raise UnhealthyError(f"self-check: {path}: {error.strerror}") from error
    if not result.startswith(("passed", "skipped")):
        raise UnhealthyError(f"self-check {result[:500]}")


class TritonHttp:
    """Triton's HTTP port, with one deadline for everything asked of it."""

    def __init__(self, host: str, port: int, timeout_s: float) -> None:
        self._host = host
        self._port = port
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s

    def get(self, path: str) -> bytes:
        """The body of a successful GET."""
        return self._ask("GET", path, None)

    def infer(
        self, model: str, inputs: list[dict[str, Any]], outputs: list[str]
    ) -> dict[str, list[Any]]:
        """Values of the outputs asked for, flat and row-major."""
        request = {"inputs": inputs, "outputs": [{"name": name} for name in outputs]}
        path = f"/v2/models/{model}/infer"
        answer = self._ask("POST", path, json.dumps(request).encode())
        try:
            tensors = {tensor["name"]: tensor["data"] for tensor in json.loads(answer)["outputs"]}
            return {name: tensors[name] for name in outputs}
        except (ValueError, KeyError, TypeError) as error:
            raise UnhealthyError(f"{path}: an answer without {' and '.join(outputs)}") from error

    def _ask(self, method: str, path: str, body: bytes | None) -> bytes:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise UnhealthyError(f"{path}: not asked, the {self._timeout_s:g} s are over")
        connection = http.client.HTTPConnection(self._host, self._port, timeout=left_s)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise UnhealthyError(
                f"{self._host}:{self._port}{path}: {error or 'no answer'}"
            ) from error
        finally:
            connection.close()
        if response.status != 200:
            reason = answer.decode("utf-8", "replace")[:200]
            cause = f"{path}: HTTP {response.status} {reason}".rstrip()
            raise UnhealthyError(cause, response.status)
        return answer


if __name__ == "__main__":
    sys.exit(main())
