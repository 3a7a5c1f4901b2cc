"""The text model's folder: BERT's sizes, and the vocabulary in one of two forms."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_export.model import TextConfig
from ctclip_export.text.bert_config import read_config
from ctclip_export.text.folder import REMEDY, read_bytes
from ctclip_export.text.settings import WHOLE, check_settings, vocabulary_of
from ctclip_export.text.word_pieces import read_vocabulary

_REQUIRED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
BERT_BASE_UNCASED_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
"""`vocab.txt` of bert-base-uncased. It has as many lines as CXR-BERT's: no shape tells."""


@dataclass(frozen=True)
class TextModel:
    """What a text model's folder says.

    vocabulary: the tokens in order of their ids; vocabulary_bytes: the same as a `vocab.txt`, one a
    line, whatever form they came in.
    """

    config: TextConfig
    vocabulary: tuple[str, ...]
    vocabulary_bytes: bytes

    @property
    def vocabulary_sha256(self) -> str:
        return hashlib.sha256(self.vocabulary_bytes).hexdigest()

    @property
    def is_bert_base(self) -> bool:
        """Whether the vocabulary is bert-base-uncased's, the likeliest mistake."""
        return self.vocabulary_sha256 == BERT_BASE_UNCASED_SHA256


def read_text_model(folder: Path) -> TextModel:
    """Read and check a text model's folder; nothing in it is ever executed.

    Raises: Unreadable for missing or damaged files, InvalidInput for contents that cannot be right.
    """
    config = read_config(folder / "config.json")
    path = folder / "vocab.txt"
    if path.exists() or not (folder / WHOLE).exists():
        tokens = _read_vocabulary(path)
    else:
        path = folder / WHOLE
        tokens = vocabulary_of(path)
    _check_vocabulary(path, tokens, config)
    check_settings(folder, tokens)
    return TextModel(config, tokens, "".join(f"{token}\n" for token in tokens).encode())


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    """The tokens of a `vocab.txt`; a byte-order mark and empty lines at its end are none."""
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{path}: not UTF-8 text ({error}).", REMEDY) from error
    return tuple(read_vocabulary(text.rstrip("\r\n")))


def _check_vocabulary(path: Path, tokens: tuple[str, ...], config: TextConfig) -> None:
    if len(tokens) != config.vocabulary_size:
        raise InvalidInput(
            f"{path}: {len(tokens)} tokens, but config.json says vocab_size "
            f"{config.vocabulary_size}: the vocabulary is another model's.",
            REMEDY,
        )
    missing = [token for token in _REQUIRED if token not in tokens]
    if missing:
        raise InvalidInput(f"{path}: no {', '.join(missing)}: not a BERT vocabulary.", REMEDY)
    if len(set(tokens)) != len(tokens):
        double, _ = Counter(tokens).most_common(1)[0]
        raise InvalidInput(f"{path}: token {double!r} stands in it twice.", REMEDY)
