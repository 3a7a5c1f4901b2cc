"""Runtimes that graphs are judged in, beside what they answer."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from ctclip_export.parity.runtimes import OPENVINO_OPTIONS, openvino_core


def test_ctrl_c_after_openvino_has_gone_in_another_thread(repository: Path) -> None:
    """It once was a segmentation fault: see `openvino_core`."""
    path = repository / "ctclip_findings" / "1" / "model.onnx"
    held: list[Any] = [openvino_core().compile_model(path, "CPU", OPENVINO_OPTIONS)]
    letting_go = threading.Thread(target=held.clear)
    letting_go.start()
    letting_go.join()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
