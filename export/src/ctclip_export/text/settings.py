"""Settings of a tokenizer that change token ids: they have to be BertTokenizer's own.

CT-CLIP was trained on `BertTokenizer(do_lower_case=True)` with texts cut at 512 tokens on the
right, and the tokenizer that is served does that and nothing else. What says otherwise is refused;
fields that are not named here change no ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctclip_client.contract import MAX_TOKENS
from ctclip_client.errors import InvalidInput
from ctclip_export.text.folder import REMEDY, read_json
from ctclip_export.text.word_pieces import SPECIAL_TOKENS, bert_tokenizer, read_vocabulary

WHOLE = "tokenizer.json"
"""The tokenizer with its vocabulary, and all that transformers 5 writes."""

_FIXED: Mapping[str, tuple[object, ...]] = {
    "tokenizer_class": ("BertTokenizer", "BertTokenizerFast", "CXRBertTokenizer", None),
    "do_lower_case": (True,),
    "do_basic_tokenize": (True,),
    "tokenize_chinese_chars": (True,),
    "strip_accents": (None, True),  # None: as do_lower_case
    "clean_text": (True,),
    "wordpieces_prefix": ("##",),
    "split_special_tokens": (False,),
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "vocab": (None,),  # transformers 5 would take it instead of the files
}
_BY_WHOLE = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes that do what `tokenizer.json` says, and that is checked."""
_ROLES = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
_FURTHER = (
    "bos_token", "eos_token", "never_split", "additional_special_tokens", "extra_special_tokens",
    "added_tokens_decoder",
)  # fmt: skip
"""Where further tokens are named: none but BERT's own may be."""
_OWN = f"one of {', '.join(SPECIAL_TOKENS)}, by its id"
_SHOWN = 200

Faults = Iterator[tuple[str, object, str]]
"""Of each fault the field, what came, and what was expected."""


def vocabulary_of(path: Path) -> tuple[str, ...]:
    """The tokens of a `tokenizer.json` in order of their ids. Raises: Unreadable, InvalidInput."""
    model = read_json(path).get("model")
    ids = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(ids, Mapping) and sorted(map(repr, ids.values())) == sorted(
        map(repr, range(len(ids)))
    ):
        tokens = sorted(ids, key=ids.__getitem__)
        lines = "".join(f"{token}\n" for token in tokens).encode("utf-8", "replace").decode()
        if read_vocabulary(lines) == tokens:
            return tuple(tokens)
    raise InvalidInput(
        f"{path}: model.vocab holds no tokens with the ids 0, 1, 2, …, one a line.", REMEDY
    )


def check_settings(folder: Path, tokens: Sequence[str]) -> None:
    """Check the files beside a vocabulary, whose tokens come in order of their ids.

    Raises: Unreadable, or InvalidInput naming file and field.
    """
    for name, faults in (
        ("tokenizer_config.json", _of_config),
        ("special_tokens_map.json", _of_special_tokens),
        ("added_tokens.json", _of_added_tokens),
        (WHOLE, _of_whole),
    ):
        path = folder / name
        if not path.exists():
            continue
        for field, got, expected in faults(read_json(path), tokens):
            if field == "tokenizer_class" and got in _BY_WHOLE and (folder / WHOLE).exists():
                continue
            shown = json.dumps(got, ensure_ascii=False)
            raise InvalidInput(
                f"{path}: {field} is {shown[:_SHOWN]}{'…' * (len(shown) > _SHOWN)}, expected "
                f"{expected}: CT-CLIP was trained on BertTokenizer's tokens of lower-cased text.",
                REMEDY,
            )


def _of_config(content: Mapping[str, Any], tokens: Sequence[str]) -> Faults:
    for name, values in _FIXED.items():
        if name in content and content[name] not in values:
            yield name, content[name], json.dumps(values[0])
    length = content.get("model_max_length")
    if length is not None and not (isinstance(length, int | float) and length >= MAX_TOKENS):
        yield "model_max_length", length, f"{MAX_TOKENS} or more"
    yield from _of_special_tokens(content, tokens)


def _of_special_tokens(content: Mapping[str, Any], tokens: Sequence[str]) -> Faults:
    for role, token in _ROLES.items():
        if role in content and not _is_own(content[role], None, tokens, (token,)):
            yield role, content[role], json.dumps(token)
    for name in _FURTHER:
        for index, entry in _entries(content.get(name)):
            if not _is_own(entry, index, tokens):
                yield name, content[name], _OWN


def _of_added_tokens(content: Mapping[str, Any], tokens: Sequence[str]) -> Faults:
    for token, index in content.items():
        if not _is_own(token, index, tokens):
            yield token, index, _OWN


def _of_whole(content: Mapping[str, Any], tokens: Sequence[str]) -> Faults:
    """As BertTokenizer writes it; it takes the vocabulary from there, even beside a vocab.txt."""
    own = json.loads(bert_tokenizer("\n".join([*tokens, ""]), MAX_TOKENS).to_str())
    for part in ("model", "normalizer", "pre_tokenizer"):
        theirs = content.get(part)
        if not isinstance(theirs, Mapping):
            yield part, theirs, f"a {own[part]['type']}"
            continue
        for field, value in theirs.items():
            if field == "vocab" and value != own[part][field]:
                yield "model.vocab", "another vocabulary", "that of vocab.txt"
            elif value not in (own[part].get(field), *(_FIXED.get(field, ()))):
                yield f"{part}.{field}", value, json.dumps(own[part].get(field))
    if not _adds_the_same(content.get("post_processor"), own["post_processor"], tokens):
        yield "post_processor", content.get("post_processor"), "one that adds [CLS] and [SEP]"
    for entry in content.get("added_tokens") or ():
        if not isinstance(entry, Mapping) or not _is_own(entry, entry.get("id"), tokens):
            yield "added_tokens", entry, _OWN
    for part in ("padding", "truncation"):
        if isinstance(content.get(part), Mapping) and content[part].get("direction") == "Left":
            yield f"{part}.direction", "Left", '"Right"'


def _adds_the_same(theirs: Any, own: Mapping[str, Any], tokens: Sequence[str]) -> bool:
    if not isinstance(theirs, Mapping):
        return False
    ends = {"cls": ["[CLS]", tokens.index("[CLS]")], "sep": ["[SEP]", tokens.index("[SEP]")]}
    if theirs.get("type") == "BertProcessing":
        return all(theirs.get(name) == end for name, end in ends.items())
    names = ("type", "single", "special_tokens")
    return all(theirs.get(name) == own[name] for name in names)


def _entries(value: Any) -> Iterator[tuple[int | None, Any]]:
    """Tokens as these files name them: one, a list, by id or by role; with their ids if known."""
    if isinstance(value, Mapping) and "content" not in value:
        for key, entry in value.items():
            yield (int(key) if key.isdecimal() else None), entry
    elif value is not None:
        yield from ((None, entry) for entry in (value if isinstance(value, list) else [value]))


def _is_own(
    entry: Any, index: Any, tokens: Sequence[str], own: Sequence[str] = SPECIAL_TOKENS
) -> bool:
    """Whether it is one of BERT's own tokens, found in a text as BertTokenizer finds it."""
    content = entry
    if isinstance(entry, Mapping):
        content = entry.get("content")
        if entry.get("single_word") or entry.get("normalized"):
            return False
    if content not in own:
        return False
    return index is None or (content in tokens and index == tokens.index(content))
