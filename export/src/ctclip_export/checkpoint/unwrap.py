"""Where in a file the model is, and what its names are without what wrappers put around them.

One rule: of all dictionaries in the file, however deep, exactly one holds tensors of a CT-CLIP, and
what stands in front of `visual_transformer.` there stands in front of every name. Anything else
would be a guess, and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint.names import VISION
from ctclip_export.checkpoint.remedies import (
    entry_alone,
    literal,
    names_behind,
    prefixes_taken_off,
)

TRAINED = "trained_model."
"""Where upstream's ClassFine (CT-LiPro) has the CT-CLIP; its head stands beside that."""
_HEAD = "classifier."
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
    found = [(entry, held) for entry, held in dictionaries if _prefixes(held)]
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


def _prefixes(held: Found) -> Counter[str]:
    """What stands in front of the vision encoder's tensors, and how often."""
    prefixes: Counter[str] = Counter()
    for name in _tensors(held):
        prefix, mark, _ = f".{name}".partition(f".{VISION}")
        if mark:
            prefixes[f"{prefix}."[1:]] += 1
    return prefixes


def _only_prefix(path: Path, entry: str, tensors: Mapping[str, Tensor]) -> str:
    prefixes = _prefixes(tensors)
    if len(prefixes) == 1:
        return next(iter(prefixes))
    ranked = sorted(prefixes, key=len, reverse=True)  # the empty one last, which all begin with
    told = ", ".join(f"{name + VISION!r} ({count})" for name, count in prefixes.items())
    bare = {name.removeprefix(next(filter(name.startswith, ranked), "")) for name in tensors}
    if len(bare) == len(tensors):  # parts of one model
        remedy = f"If it is one model: {prefixes_taken_off(path, entry, filter(None, ranked))}"
    else:
        remedy = f"{_ALONE} {names_behind(path, entry, ranked[:1])}"
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
            f"{path}{entry}: {len(tensors) - len(strange)} names begin with {prefix!r}, as a "
            f"wrapped model's do, and {len(strange)} do not: {shown}{more}.",
            f"If they are no part of the model, leave them out: {names_behind(path, entry, kept)}",
        )
    return state, classifier


def _bare(name: str) -> str:
    """A name, or the end of one, without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS) or name


def _kind(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
