"""Where in a file the model is, and what its names are without what wrappers put around them.

One rule: of all dictionaries in the file, however deep, exactly one holds tensors of a CT-CLIP, and
what stands in front of one of the model's names there stands in front of every one. Anything else
would be a guess, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint.names import TEXT, VISION
from ctclip_export.checkpoint.remedies import (
    entry_alone,
    literal,
    names_behind,
    prefixes_taken_off,
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
_LISTED = 4
_ALONE = "Save the one that is meant alone, and give that file:"

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


def unwrap(path: Path, content: Found) -> Contents:
    """Find the model; a file without any gives what tensors it has, for a message.

    Raises: InvalidInput where there are several, or names that do not stand behind one prefix.
    """
    dictionaries = list(_dictionaries(content))
    found = [(entry, held) for entry, held in dictionaries if _holds_a_model(held)]
    if len(found) > 1:
        told = " and ".join(entry or "the file itself" for entry, _ in found)
        chosen = next(entry for entry, _ in found if entry)
        raise InvalidInput(
            f"{path}: holds {len(found)} CT-CLIPs, {told}; only you know which is meant.",
            f"{_ALONE} {entry_alone(path, chosen)}",
        )
    entry, held = found[0] if found else max(dictionaries, key=lambda item: len(_tensors(item[1])))
    beside = [
        f"{key!r} ({_kind(value)})" for key, value in content.items()
        if value is not held and (not isinstance(value, Tensor) or held is not content)
    ]  # fmt: skip
    tensors = _tensors(held)
    if not found:
        return Contents(tensors, {}, entry, "", tuple(beside))
    prefix = _only_prefix(path, entry, tensors)
    state, classifier = _named(path, entry, tensors, prefix)
    return Contents(state, classifier, entry, prefix, tuple(beside))


def _dictionaries(content: Found) -> Iterator[tuple[str, Found]]:
    """All dictionaries of a file, each once, with their subscripts."""
    seen: set[int] = set()
    left = [("", content)]
    while left:
        entry, held = left.pop()
        if id(held) in seen:
            continue
        seen.add(id(held))
        yield entry, held
        nested = [
            (f"{entry}[{literal(key)}]", value) for key, value in held.items()
            if isinstance(value, Mapping) and isinstance(key, str | int)
        ]  # fmt: skip
        left += reversed(nested)


def _tensors(held: Found) -> dict[str, Tensor]:
    return {n: t for n, t in held.items() if isinstance(n, str) and isinstance(t, Tensor)}


def _holds_a_model(held: Found) -> bool:
    return any(f".{VISION}" in f".{name}" for name in _tensors(held))


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
    bare = {name.removeprefix(prefix) for prefix, held in names.items() for name in held}
    if len(bare) == sum(map(len, names.values())):
        ranked = sorted(filter(None, names), key=len, reverse=True)
        remedy = f"If it is one model: {prefixes_taken_off(path, entry, ranked)}"
    else:
        most = max(names, key=lambda prefix: len(names[prefix]))
        others = [prefix for prefix in names if not most.startswith(prefix)]
        remedy = f"{_ALONE} {names_behind(path, entry, [most], others)}"
    told = ", ".join(f"{len(held)} as {held[0]!r}" for held in names.values())
    raise InvalidInput(f"{path}{entry}: its names begin in different ways: {told}.", remedy)


def _named(
    path: Path, entry: str, tensors: Mapping[str, Tensor], prefix: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The model's tensors and those of a ClassFine head, by upstream's names."""
    outer, trained, _ = _bare(prefix).partition(TRAINED)
    head = f"{outer}{_HEAD}" if trained else None
    state: dict[str, Tensor] = {}
    classifier: dict[str, Tensor] = {}
    strange = []
    for name, tensor in tensors.items():
        bare, target = _bare(name.removeprefix(prefix)), state
        if not name.startswith(prefix):
            bare = _bare(name)
            if head is None or not bare.startswith(head):
                strange.append(name)
                continue
            bare, target = bare.removeprefix(outer), classifier
        if bare in target:
            raise InvalidInput(
                f"{path}{entry}: holds {bare!r} twice, within a wrapper as {name!r} and without.",
                "Save the model's state_dict() alone, by the program that wrote the file.",
            )
        target[bare] = tensor
    if strange:
        shown = ", ".join(map(repr, strange[:_LISTED]))
        more = f", and {len(strange) - _LISTED} more" if len(strange) > _LISTED else ""
        kept = [prefix, *(name for name in tensors if head and _bare(name).startswith(head))]
        raise InvalidInput(
            f"{path}{entry}: {len(tensors) - len(strange)} names begin with {prefix!r}, and "
            f"{len(strange)} do not: {shown}{more}.",
            "If they are no part of the model, leave them out: "
            f"{names_behind(path, entry, kept, [])}",
        )
    return state, classifier


def _bare(name: str) -> str:
    """A name, or the end of one, without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS) or name


def _kind(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
