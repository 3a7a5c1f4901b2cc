"""Files of thresholds: what is read, and what is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctclip_client.errors import InvalidInput
from ctclip_client.thresholds import read_thresholds

GOOD = {
    "kind": "ctclip-thresholds",
    "version": 1,
    "method": "youden",
    "thresholds": {"Cardiomegaly": 0.43, "Lungenödem": 1},
    "labels": "labels.csv",
}


def test_reads_what_evaluation_writes(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD, ensure_ascii=False).encode())
    thresholds = read_thresholds(path)
    assert thresholds.values == {"Cardiomegaly": 0.43, "Lungenödem": 1.0}
    assert thresholds.method == "youden"
    assert thresholds.positive("Cardiomegaly", 0.43) is True
    assert thresholds.positive("Cardiomegaly", 0.4299) is False
    assert thresholds.positive("Atelectasis", 0.9) is None
    thresholds.check_known(["Lungenödem", "Atelectasis", "Cardiomegaly"])
    with pytest.raises(InvalidInput, match="got 'Cardiomegaly', expected some of 'Lungenödem'"):
        thresholds.check_known(["Lungenödem"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ctclip-result"}, "kind: got 'ctclip-result', expected 'ctclip-thresholds'"),
        ({"version": 2}, "version: got 2, expected 1"),
        ({"version": True}, "version: got True, expected 1"),
        ({"method": None}, "method: got None, expected text"),
        ({"thresholds": {}}, "expected an object with at least one finding"),
        ({"thresholds": [0.5]}, "expected an object with at least one finding"),
        ({"thresholds": {"A": 1.01}}, "threshold of 'A': got 1.01, expected a number from 0 to 1"),
        ({"thresholds": {"A": float("nan")}}, "threshold of 'A': got nan"),
        ({"thresholds": {"A": True}}, "threshold of 'A': got True"),
        ({"thresholds": {"A": "0.5"}}, "threshold of 'A': got '0.5'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(InvalidInput, match=message) as caught:
        read_thresholds(path)
    assert "--fit-thresholds" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "kind: got 'list'"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"thresholds": {"A": 0.1, "A": 0.2}}', "got 'A' 2 times"),
    ],
    ids=lambda text: text[:30],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=message):
        read_thresholds(path)
    with pytest.raises(InvalidInput, match="No such file"):
        read_thresholds(tmp_path / "missing.json")
