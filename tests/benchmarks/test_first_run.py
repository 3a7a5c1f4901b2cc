"""The script for a GPU machine without a package index, rehearsed on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ABSENT = ("tritonclient", "nibabel", "onnxruntime", "openvino", "scipy")
"""What such a machine does not have."""
BLOCKER = f"""
import sys
for name in {ABSENT}:
    sys.modules[name] = None
"""


def test_it_runs_where_only_torch_onnx_and_numpy_are(tmp_path: Path) -> None:
    """ONNX Runtime's phase fails there, and no other."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    sources = [str(ROOT / room / "src") for room in ("client", "export", "benchmarks")]
    path = os.pathsep.join([str(tmp_path), *sources])
    script = str(ROOT / "benchmarks" / "gpu" / "first_run.py")
    done = subprocess.run(
        [
            sys.executable, script, "--out", str(tmp_path / "out"), "--device", "cpu", "--small",
            "--runs", "1", "--only", "machine,model,parity,onnx,transfer",
        ],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    failed = {phase: content["failed"] for phase, content in found.items() if "failed" in content}
    assert list(failed) == ["onnx"]
    assert "onnxruntime" in failed["onnx"]
    assert found["model"]["used_codes"] > 50
    same = found["parity"]["fp32, CPU against the device"]
    assert (same["verdict"], same["codes_agree"]) == ("PASS", 1.0)
    assert found["parity"]["bf16 twin"]["volumes"] == 4
