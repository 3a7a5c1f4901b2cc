"""For Triton's own `perf_analyzer`: the requests as it takes them, and how to call it.

Formats and options: docs/input_data.md and docs/cli.md of its repository,
triton-inference-server/perf_analyzer.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ctclip_client import InvalidInput, Volume
from ctclip_client.contract import PATHOLOGIES
from ctclip_client.system.files import placed
from ctclip_client.system.terminal import command_line
from ctclip_client.transport.connection import Connection


def write_input(volumes: Iterable[Volume], folder: Path) -> Path:
    """One JSON file with the tensors of each volume, which perf_analyzer sends in turn: binary, in
    base 64, each with its shape, so that scans of several sizes may lie beside each other. (Its
    other format, a folder with a file for each tensor, holds one request only.)

    Raises: InvalidInput where it cannot be written.
    """
    path = folder / f"{PATHOLOGIES.name}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with placed(path) as file:
            for number, volume in enumerate(volumes):  # one at a time: each takes 100 MB and more
                request = {
                    name: {"content": {"b64": _base64(array)}, "shape": list(array.shape)}
                    for name, array in volume.tensors().items()
                }
                file.write(b'{"data": [' if number == 0 else b",")
                file.write(json.dumps(request).encode("ascii"))
            file.write(b"]}\n")
    except OSError as error:
        raise InvalidInput(
            f"--perf-analyzer: cannot write {path}: {error.strerror or error}.",
            "Name a folder that can be written to.",
        ) from error
    return path


def commands(
    path: Path, connection: Connection, clients: Sequence[int], requests: int
) -> list[str]:
    """One for each number of clients. perf_analyzer sends no headers over gRPC."""
    words: list[object] = [
        "perf_analyzer", "-m", PATHOLOGIES.name, "-i", "grpc", "-u", connection.url,
        "--input-data", path.resolve(), "--percentile=99", f"--request-count={requests}",
    ]  # fmt: skip
    if connection.tls is not None:
        words.append("--ssl-grpc-use-ssl")
        files = {
            "root-certifications": connection.tls.root_certificates,
            "private-key": connection.tls.private_key,
            "certificate-chain": connection.tls.certificate_chain,
        }
        for name, file in files.items():
            words += [] if file is None else [f"--ssl-grpc-{name}-file={file}"]
    return [command_line(*words, f"--concurrency-range={count}") for count in clients]


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")
