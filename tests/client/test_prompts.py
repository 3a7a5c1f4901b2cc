"""Prompt banks that no tokenizer could take, or no parser."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctclip_client.errors import InvalidInput
from ctclip_client.prompts import read_prompts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            r'[{"finding": "a", "present": "\ud800", "absent": "b"}]',
            r"'present' is '\\ud800', half",
        ),
        ("[" * 100_000, "not JSON"),
    ],
    ids=["half a character", "bottomless"],
)
def test_refused_in_words(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        read_prompts(path)
    assert caught.value.remedy
