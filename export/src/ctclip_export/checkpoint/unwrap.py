"""Where in a file the model is, and what its names are without what wrappers put around them.

One rule: of all dictionaries in the file, however deep, and in lists and tuples, exactly one holds
a CT-CLIP, told by its codebook, and what stands in front of one of the model's names there stands
in front of every one. Anything else would be a guess, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint.names import CODEBOOK, TEXT, VISION
from ctclip_export.checkpoint.remedies import (
    BY_ITS_PROGRAM,
    literal,
    names_behind,
    one_of,
    prefixes_taken_off,
    tensors_of,
)

TRAINED = "trained_model."
"""Where upstream's ClassFine (CT-LiPro) has the CT-CLIP; its head stands beside that."""
_HEAD = "classifier."
_PART = re.compile(
    rf"(?:^|\.)(?:{VISION}|{TEXT}|to_(?:text|visual)_latent(?:_extra)?\.|temperature$)"
)
"""How the model's own names begin."""
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What DataParallel, DDP, torch.compile, FSDP and activation checkpoints put into names."""
_UNNAMED = "<a key that is no literal>"
_LISTED = 4

Found = Mapping[Any, Any]


@dataclass(frozen=True)
class Contents:
    """The tensors of a file, memory-mapped.

    state: CT-CLIP's own, by upstream's names. classifier: a ClassFine (CT-LiPro) file's head, or
    {}. entry: the subscript of the dictionary that held them, as `["model"]`; "" for the whole
    file. prefix: what stood in front of every name. beside: the file's other entries, in words.
    """

    state: dict[str, Tensor]
    classifier: dict[str, Tensor]
    entry: str
    prefix: str
    beside: tuple[str, ...]


def unwrap(path: Path, content: object) -> Contents:
    """Find the model in what holds one dictionary at least; a file without a model gives what
    tensors it has, for a message.

    Raises: InvalidInput where there are several, or names that do not stand behind one prefix.
    """
    held_in = list(dictionaries(content))
    # Without a codebook it may be a damaged model, or moments of an optimizer by the model's names.
    found = [item for item in held_in if holds_codebook(_tensors(item[1]))] or [
        item for item in held_in if any(f".{VISION}" in f".{name}" for name in _tensors(item[1]))
    ]
    for entry, _ in found:
        if _UNNAMED in entry:
            raise InvalidInput(f"{path}: holds a CT-CLIP below {entry}.", BY_ITS_PROGRAM)
    if len(found) > 1:
        told = {entry: entry or "the file itself" for entry, _ in found}
        raise InvalidInput(
            f"{path}: holds {len(found)} CT-CLIPs, {' and '.join(told.values())}; only you know "
            "which is meant.",
            one_of({name: tensors_of(path, entry) for entry, name in told.items()}),
        )
    entry, held = found[0] if found else max(held_in, key=lambda item: len(_tensors(item[1])))
    tensors = _tensors(held)
    beside = [
        f"{at}{_subscript(key)} ({_kind(value)})"
        for at, around in {"": content, **dict(held_in)}.items() if entry.startswith(at)
        for key, value in _items(around)
        if value is not held and not entry.startswith(at + _subscript(key))
        and (around is not held or key not in tensors)
    ]  # fmt: skip
    if not found:
        return Contents(tensors, {}, entry, "", tuple(beside))
    prefix = _only_prefix(path, entry, tensors)
    state, classifier = _named(path, entry, tensors, prefix)
    return Contents(state, classifier, entry, prefix, tuple(beside))


def dictionaries(content: object) -> Iterator[tuple[str, Found]]:
    """All dictionaries of a file, each once, with their subscripts."""
    seen: set[int] = set()
    left = [("", content)]
    while left:
        entry, held = left.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        if isinstance(held, Mapping):
            yield entry, held
        nested = [
            (entry + _subscript(key), value) for key, value in _items(held)
            if isinstance(value, Mapping | list | tuple)
        ]  # fmt: skip
        left += reversed(nested)


def _items(held: object) -> Iterable[tuple[Any, Any]]:
    if isinstance(held, Mapping):
        return held.items()
    return enumerate(held) if isinstance(held, list | tuple) else ()


def _subscript(key: object) -> str:
    return f"[{literal(key) or _UNNAMED}]"


def _tensors(held: Found) -> dict[str, Tensor]:
    return {n: t for n, t in held.items() if isinstance(n, str) and isinstance(t, Tensor)}


def holds_codebook(names: Iterable[Any]) -> bool:
    """Whether one of the names is that of CT-CLIP's codebook, wrapped or not."""
    return any(isinstance(n, str) and f".{_bare(n)}".endswith(f".{CODEBOOK}") for n in names)


def _only_prefix(path: Path, entry: str, tensors: Mapping[str, Tensor]) -> str:
    """What stands in front of all names that are the model's."""
    names: dict[str, list[str]] = {}
    for name in tensors:
        match = _PART.search(name)
        if match:
            prefix = name[: match.start() + 1] if match.group().startswith(".") else ""
            names.setdefault(prefix, []).append(name)
    if len(names) == 1:
        return next(iter(names))
    told = ", ".join(f"{len(held)} as {held[0]!r}" for held in names.values())
    cause = f"{path}{entry}: its names begin in different ways: {told}."
    bare = {name.removeprefix(prefix) for prefix, held in names.items() for name in held}
    if len(bare) == sum(map(len, names.values())):
        # Of a ClassFine file the names keep `trained_model.`, which tells them from the head's.
        outer = {p: p.partition(TRAINED)[0] if TRAINED in p else p for p in names}
        remedy = BY_ITS_PROGRAM
        if len({prefix.removeprefix(outer[prefix]) for prefix in names}) == 1:
            ranked = sorted(filter(None, outer.values()), key=len, reverse=True)
            remedy = f"If it is one model: {prefixes_taken_off(path, entry, ranked)}"
        raise InvalidInput(cause, remedy)
    commands = {}
    for prefix, held in names.items():
        if holds_codebook(held):
            others = [p for p in names if p.startswith(prefix) and p != prefix]
            command = names_behind(path, entry, prefix, others, _head(tensors, prefix))
            commands[f"what begins with {prefix!r}" if prefix else "the rest"] = command
    raise InvalidInput(cause, one_of(commands))


def _head(names: Iterable[str], prefix: str) -> list[str]:
    """The names of the head that stands beside a ClassFine's CT-CLIP behind this prefix."""
    outer, trained, _ = prefix.partition(TRAINED)
    if not trained:
        return []
    rest = [name for name in names if not _PART.search(name)]
    exact = [name for name in rest if name.startswith(f"{outer}{_HEAD}")]
    return exact or [name for name in rest if _bare(name).startswith(_bare(outer + _HEAD))]


def _named(
    path: Path, entry: str, tensors: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's tensors and those of a ClassFine head, by upstream's names."""
    head = _head(tensors, prefix)
    outer = _bare(prefix.partition(TRAINED)[0] + _HEAD).removesuffix(_HEAD)
    state: dict[str, Tensor] = {}
    classifier: dict[str, Tensor] = {}
    strange = []
    for name, tensor in tensors.items():
        bare, target = _bare(name.removeprefix(prefix)), state
        if not name.startswith(prefix):
            if name not in head:
                strange.append(name)
                continue
            bare, target = bare.removeprefix(outer), classifier
        if bare in target:
            raise InvalidInput(
                f"{path}{entry}: holds {bare!r} twice, within a wrapper as {name!r} and without.",
                BY_ITS_PROGRAM,
            )
        target[bare] = tensor
    if strange:
        shown = ", ".join(map(repr, strange[:_LISTED]))
        more = f", and {len(strange) - _LISTED} more" if len(strange) > _LISTED else ""
        raise InvalidInput(
            f"{path}{entry}: {len(state)} names begin with {prefix!r}, and {len(strange)} do not: "
            f"{shown}{more}.",
            "If they are no part of the model, leave them out: "
            f"{names_behind(path, entry, prefix, [], head)}",
        )
    return state, classifier


def _bare(name: str) -> str:
    """A name, or the end of one, without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS) or name


def _kind(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
