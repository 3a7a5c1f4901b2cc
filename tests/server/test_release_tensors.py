"""A release whose models have other tensors is not taken in, and the true cause is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ctclip_client.errors import InvalidInput
from ctclip_client.release.members import read_members
from ctclip_server.releases.place import place_release

from .releases import copied

OTHER_CTCLIP = "exported by another version of ctclip: export both again"
ITS_OWN = "needs a repository and a server of its own"


def _edit(model: str, before: str, after: str) -> Callable[[Path], None]:
    def edit(repository: Path) -> None:
        path = repository / model / "config.pbtxt"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return edit


def _without_relevance(repository: Path) -> None:
    for name in ("ctclip_relevance", "ctclip_explain"):
        shutil.rmtree(repository / name)


def _without_own(repository: Path) -> None:
    """An ensemble that somebody has wired from a release's models is of no version of ctclip."""
    shutil.copytree(repository / "ctclip_text_embedding", repository / "my_texts")
    _edit("my_texts", "ctclip_text_embedding", "my_texts")(repository)


@pytest.mark.parametrize(
    ("change", "cause", "remedy"),
    [
        (_without_relevance, "is in one of the two repositories only", OTHER_CTCLIP),
        (_without_own, "'my_texts' is in one of the two repositories only", "ClassFine in both"),
        (
            _edit("ctclip_tokenizer", '"TEXT"', '"SENTENCE"'),
            "'ctclip_tokenizer' has another input there",
            OTHER_CTCLIP,
        ),
        (
            _edit("ctclip_text", "max_batch_size: 64", "max_batch_size: 8"),
            "'ctclip_text' has another max_batch_size there: 64, here 8",
            OTHER_CTCLIP,
        ),
        (
            _edit("ctclip_text", "TYPE_FP32, dims: [", "TYPE_FP32, dims: [9"),
            "'ctclip_text' has another output there: TEXT_EMBEDDING [",
            ITS_OWN,
        ),
    ],
)
def test_the_remedy_fits_the_cause(
    change: Callable[[Path], None], cause: str, remedy: str, repository: Path, tmp_path: Path
) -> None:
    live, candidate = copied(repository, tmp_path / "live"), copied(repository, tmp_path / "new")
    change(live)
    with pytest.raises(InvalidInput) as caught:
        place_release(read_members(live), read_members(candidate))
    assert cause in caught.value.cause
    assert remedy in caught.value.remedy
