"""Save the tensors of a file that also names functions and classes, running none of them.

    python -m ctclip_export.checkpoint.tensors_alone FILE OUT

`ctclip` reads no such file by itself: what it would leave out might matter to its owner.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

import torch
from torch import Tensor


class _Passes(type):
    """Torch fills none but its own kinds of dictionaries: let a stand-in pass for one."""

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is dict

    __hash__ = type.__hash__


class _LeftOut(dict[Any, Any], metaclass=_Passes):
    """What stands for every function and class that a file names, and for what it would make."""

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None: ...


def _kept(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {k: _kept(v) for k, v in value.items() if isinstance(v, dict | Tensor)}


def main(source: str, target: str) -> None:
    """Read `source` with stand-ins; write its tensors and dictionaries to `target`."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(source)
    try:
        with torch.serialization.safe_globals([(_LeftOut, name) for name in names]):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        sys.exit(
            f"{source}: holds objects that none can stand for ({', '.join(sorted(names))}): save "
            "the model's state_dict() alone, by the program that wrote the file."
        )
    torch.save(_kept(content), target)
    print(f"{target}: written without {', '.join(sorted(names)) or 'anything left out'}.")


if __name__ == "__main__":
    main(*sys.argv[1:])
