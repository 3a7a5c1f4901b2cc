"""The ladder's table, as a file or a narrow terminal gets it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ctclip_bench.parity.report import ladder_table
from ctclip_bench.parity.run import Climb
from ctclip_export.parity.judge import Verdict

WHERE = " at triton.radiology.hospital.example:8001"
CLIMB = Climb(
    {"release": "0" * 12, "precision": "fp16", "checkpoint": {"random_weights": True}},
    "PyTorch",
    ("scan",),
    (
        Verdict("ONNX fp16, ONNX Runtime", "PASS", "", 1, 0.99999, 1.2e-5, 3.4e-4, 0.999999,
                0.999998, 1.5e-2, 2.5e-3, 0.999),
        Verdict("TensorRT engine", "NOT RUN", "no plan"),
        Verdict(f"served by Triton{WHERE}", "FAIL", "codes", 1),
        Verdict(f"client, from a CT file{WHERE}", "NOT RUN", "no answer"),
    ),
    None,
)  # fmt: skip


def printed(width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(ladder_table(CLIMB))
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_verdicts_are_whole_and_nothing_is_cut(width: int) -> None:
    text = printed(width)
    ends = [line.rstrip().rpartition("  ")[2].strip() for line in text.splitlines()]
    assert [end for end in ends if end in ("PASS", "FAIL", "NOT RUN")] == [
        "PASS", "NOT RUN", "FAIL", "NOT RUN",
    ]  # fmt: skip
    assert "…" not in text


def test_in_a_file_numbers_stand_on_one_line() -> None:
    for number in ("99.999%", "1.2e-05", "6.8e-04", "0.999999", "0.999998", "1.5e-02", "Spearman"):
        assert number in printed(120)
