"""The text model's folder: BERT's sizes from `config.json`, the vocabulary from `vocab.txt`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctclip_client.contract import MAX_TOKENS
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_export.model import TextConfig
from ctclip_export.text.word_pieces import read_vocabulary

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
BERT_BASE_UNCASED_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
"""`vocab.txt` of bert-base-uncased. It has as many lines as CXR-BERT's: no shape tells."""

_REMEDY = (
    "--text-model takes the folder of the checkpoint's own text model (for CT-CLIP: "
    "microsoft/BiomedVLP-CXR-BERT-specialized), with config.json and vocab.txt."
)


@dataclass(frozen=True)
class TextModel:
    """What a text model's folder says. `vocabulary` is one token a line, in order of their ids."""

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
    config = _read_config(folder / "config.json")
    content = _read(folder / "vocab.txt")
    try:
        tokens = tuple(read_vocabulary(content.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise Unreadable(f"{folder / 'vocab.txt'}: not UTF-8 text ({error}).", _REMEDY) from error
    _check_vocabulary(folder / "vocab.txt", tokens, config)
    _check_case(folder / "tokenizer_config.json")
    return TextModel(config, tokens, content)


def _check_vocabulary(path: Path, tokens: tuple[str, ...], config: TextConfig) -> None:
    if len(tokens) != config.vocabulary_size:
        raise InvalidInput(
            f"{path}: {len(tokens)} tokens, but config.json says vocab_size "
            f"{config.vocabulary_size}: the vocabulary is another model's.",
            _REMEDY,
        )
    missing = [token for token in SPECIAL_TOKENS if token not in tokens]
    if missing:
        raise InvalidInput(f"{path}: no {', '.join(missing)}: not a BERT vocabulary.", _REMEDY)
    if len(set(tokens)) != len(tokens):
        double, _ = Counter(tokens).most_common(1)[0]
        raise InvalidInput(f"{path}: token {double!r} stands in it twice.", _REMEDY)


def _check_case(path: Path) -> None:
    if path.exists() and _read_json(path).get("do_lower_case") is False:
        raise InvalidInput(
            f"{path}: do_lower_case is false, but CT-CLIP was trained on lower-cased text.", _REMEDY
        )


def _read_config(path: Path) -> TextConfig:
    content = _read_json(path)
    numbers: dict[str, int] = {}
    for theirs, ours in (
        ("vocab_size", "vocabulary_size"),
        ("hidden_size", "width"),
        ("num_hidden_layers", "layers"),
        ("num_attention_heads", "heads"),
        ("intermediate_size", "hidden"),
        ("max_position_embeddings", "positions"),
        ("type_vocab_size", "segment_types"),
    ):
        value = content.get(theirs)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidInput(f"{path}: {theirs} is {value!r}, expected a count.", _REMEDY)
        numbers[ours] = value
    if numbers["width"] % numbers["heads"]:
        raise InvalidInput(
            f"{path}: hidden_size {numbers['width']} is not a multiple of num_attention_heads "
            f"{numbers['heads']}.",
            _REMEDY,
        )
    if numbers["positions"] < MAX_TOKENS:
        raise InvalidInput(
            f"{path}: max_position_embeddings is {numbers['positions']}, expected at least "
            f"{MAX_TOKENS}: CT-CLIP cuts texts at {MAX_TOKENS} tokens.",
            _REMEDY,
        )
    for name, expected in (
        ("hidden_act", "gelu"),
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
    ):
        if content.get(name, expected) != expected:
            raise InvalidInput(
                f"{path}: {name} is {content[name]!r}, but CT-CLIP's text encoder has "
                f"{expected!r}.",
                _REMEDY,
            )
    epsilon = content.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise InvalidInput(f"{path}: layer_norm_eps is {epsilon!r}, expected 1e-12 or so.", _REMEDY)
    return TextConfig(**numbers, layer_norm_eps=epsilon)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path}: not JSON ({error}).", _REMEDY) from error
    if not isinstance(content, dict):
        raise Unreadable(f"{path}: expected a JSON object, got {type(content).__name__}.", _REMEDY)
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", _REMEDY) from error
