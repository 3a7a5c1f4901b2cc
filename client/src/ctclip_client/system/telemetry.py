"""Libraries that report to their makers are kept from it, before they are imported.

Scans are patient data, and a hospital's machine has to know who hears of it. By themselves,
importing them sends what machine, program and model this is, and writes an identifier of the
machine into the user's home:

- ONNX Runtime since 1.29 on Linux and macOS (its pull request 27379, "Add POSIX telemetry"), but
  for ORT_DISABLE_TELEMETRY;
- OpenVINO, by the package openvino_telemetry, which has no such variable. Without that package it
  takes a stub of its own (`openvino/tools/ovc/telemetry_utils.py`).
"""

from __future__ import annotations

import os
import sys
from typing import Any, cast

ORT_VARIABLE = "ORT_DISABLE_TELEMETRY"
_OPENVINO_PACKAGE = "openvino_telemetry"


def forbid_telemetry() -> None:
    """Of this process and those that it starts (OpenVINO: of this process)."""
    os.environ[ORT_VARIABLE] = "1"
    # None makes an import of that name fail, as if it were not installed.
    cast("dict[str, Any]", sys.modules).setdefault(_OPENVINO_PACKAGE, None)
