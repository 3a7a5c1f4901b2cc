"""Save the tensors of a file that also names functions and classes, running none of them.

    python -m ctclip_export.checkpoint.tensors_alone FILE OUT

`ctclip` reads no such file by itself: what it would leave out might matter to its owner.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctclip_export.checkpoint.remedies import BY_ITS_PROGRAM, literal
from ctclip_export.checkpoint.unwrap import dictionaries, holds_codebook


class _Passes(type):
    """Before torch's unpickler sets items, it compares the object's type with `dict`.

    Objects of a class like that are often dictionaries of tensors, so this `__eq__` answers yes.
    """

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


class _LeftOut(dict[Any, Any], metaclass=_Passes):
    """What stands for every function and class that a file names, and for what it would make."""

    __hash__ = object.__hash__  # type: ignore[assignment]
    """It can be a key."""

    __repr__ = object.__repr__
    """As a key it is no literal, so that it is left out."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None: ...


def _kept(value: Any, made: dict[int, Any]) -> Any:
    """The same without all but tensors and what can hold them; `made` holds what is done."""
    if isinstance(value, Tensor) or id(value) in made:
        return made.get(id(value), value)
    if isinstance(value, dict):
        kept: dict[Any, Any] = {}
        made[id(value)] = kept
        kept.update(
            (k, _kept(v, made)) for k, v in value.items()
            if isinstance(v, dict | list | tuple | Tensor) and literal(k) is not None
        )  # fmt: skip
        return kept
    items: list[Any] = []
    made[id(value)] = items
    items += (_kept(v, made) for v in value if isinstance(v, dict | list | tuple | Tensor))
    return items


def without_objects(source: str | Path) -> tuple[Any, list[str]]:
    """A file's tensors, memory-mapped, in its dictionaries and lists; the names that it loses.

    Raises: ValueError where no CT-CLIP is left, and whatever torch.load makes of other files.
    """
    names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(source))
    with torch.serialization.safe_globals([(_LeftOut, name) for name in names]):
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    kept = _kept(content, {}) if isinstance(content, dict | list | tuple) else {}
    if not any(holds_codebook(held) for _, held in dictionaries(kept)):
        raise ValueError(f"without {', '.join(names) or 'objects'} no CT-CLIP is left")
    return kept, names


def main(arguments: list[str]) -> None:
    """Write what is left of the first file to the second."""
    if len(arguments) != 2:
        sys.exit("usage: python -m ctclip_export.checkpoint.tensors_alone FILE OUT")
    source, target = map(Path, arguments)
    try:
        if target.exists() and target.samefile(source):
            raise ValueError("it is read from; name another file to write")
        kept, names = without_objects(source)
        torch.save(kept, target)
    except Exception as error:  # noqa: BLE001 (no stand-in passes everywhere: anything may come)
        cause = (str(error) or type(error).__name__).split("\n")[0]
        sys.exit(f"{source}: {cause}. {BY_ITS_PROGRAM}")
    print(f"{target}: written without {', '.join(names) or 'anything left out'}.")


if __name__ == "__main__":
    main(sys.argv[1:])
