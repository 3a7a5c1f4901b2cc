"""Prompt banks that no tokenizer could take, or no parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctclip_client.errors import InvalidInput
from ctclip_client.prompts import read_prompts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            r'[{"finding": "a", "present": "\ud800", "absent": "b"}]',
            r"'present' is '\\ud800', expected text",
        ),
        ("[" * 100_000, "not JSON"),
        (
            '[{"finding": "a", "present": "b", "absent": "c"},'
            ' {"finding": "d", "present": "e", "absent": "f", "present": "g"}]',
            r"got 'present' 2 times \('e', 'g'\), expected it once",
        ),
        (
            '[{"finding": "a", "present": "The same.", "absent": " The  same. "}]',
            "entry 0: 'absent' is ' The  same. ', the same as 'present', expected another",
        ),
        ("[]", "at least one finding"),
        ("{}", "at least one finding"),
        ('[{"finding": "a"}]', "entry 0 has"),
        ('[{"finding": "a", "present": "", "absent": "b"}]', "entry 0: 'present' is ''"),
        ('[{"finding": 1, "present": "a", "absent": "b"}]', "entry 0: 'finding' is 1"),
        (json.dumps([{"finding": "a", "present": "b", "absent": "c"}] * 2), "is a duplicate"),
    ],
    ids=lambda value: value[:40],
)
def test_refused_in_words(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        read_prompts(path)
    assert caught.value.remedy


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    """Windows' Notepad writes one, where it says "UTF-8 with BOM"."""
    path = tmp_path / "bank.json"
    content = '[{"finding": "Lungenödem", "present": "It is there.", "absent": "It is not."}]'
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    (entry,) = read_prompts(path)
    assert entry.finding == "Lungenödem"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_other_encodings_are_refused_by_name(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_text('[{"finding": "Lungenödem", "present": "a", "absent": "b"}]', encoding)
    with pytest.raises(InvalidInput, match="not JSON in UTF-8"):
        read_prompts(path)
