"""Commands that make a file which is read out of one that is not, ready to be pasted."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable
from glob import escape
from pathlib import Path

_LOADED = 'torch.load(sys.argv[1], map_location="cpu", weights_only=True)'
_PART = re.compile(r"-\d{5}-of-(?!00001)(\d{5})(\.\w+)$")
"""As transformers names them."""


def entry_alone(path: Path, entry: str) -> str:
    """Save one entry of a file; `entry` is its subscript, as in `["model"]`."""
    return _python(f"torch.save({_LOADED}{entry}, sys.argv[2])", [path, _other(path)])


def names_behind(path: Path, entry: str, kept: Iterable[str], others: Iterable[str]) -> str:
    """Save the tensors whose names begin with one of the first, and with none of the others."""
    chosen = f"n.startswith({_tuple(kept)})"
    if others:
        chosen += f" and not n.startswith({_tuple(others)})"
    code = f"{{n: t for n, t in s.items() if {chosen}}}"
    return _python(f"s = {_LOADED}{entry}; torch.save({code}, sys.argv[2])", [path, _other(path)])


def prefixes_taken_off(path: Path, entry: str, prefixes: Iterable[str]) -> str:
    """Save all entries, without these in front of their names."""
    bare = "n" + "".join(f".removeprefix({literal(prefix)})" for prefix in prefixes)
    kept = f"{{{bare}: t for n, t in s.items()}}"
    return _python(f"s = {_LOADED}{entry}; torch.save({kept}, sys.argv[2])", [path, _other(path)])


def literal(value: str | int) -> str:
    """A value as Python reads it, in the quotes that a shell's own leave alone."""
    plain = isinstance(value, str) and value.isprintable()
    return json.dumps(value, ensure_ascii=False) if plain else repr(value)


def tensors_alone(path: Path) -> str:
    """Save a file's tensors and dictionaries without the objects in it."""
    module = "ctclip_export.checkpoint.tensors_alone"
    return _line(sys.executable, "-m", module, path, _other(path))


def from_safetensors(path: Path) -> str:
    """Save a safetensors file as torch does."""
    return _python(
        "import safetensors.torch as s; torch.save(s.load_file(sys.argv[1]), sys.argv[2])",
        [path, _other(path)],
    )


def from_parts(path: Path) -> tuple[int, str] | None:
    """How many files the weights are spread over, and how to join those beside this one."""
    match = _PART.search(path.name)
    if match is None:
        return None
    stem, (count, suffix) = path.name[: match.start()], match.groups()
    parts = sorted(path.parent.glob(f"{escape(stem)}-?????-of-{count}{suffix}"))
    load = 'torch.load(f, map_location="cpu", weights_only=True)'
    if suffix == ".safetensors":
        load = '__import__("safetensors.torch").torch.load_file(f)'
    code = f"torch.save({{n: t for f in sys.argv[2:] for n, t in {load}.items()}}, sys.argv[1])"
    return int(count), _python(code, [path.with_name(f"{stem}.joined.pt"), *parts])


def from_distributed(folder: Path) -> str:
    """Save a folder of torch.distributed.checkpoint as one file."""
    module = "torch.distributed.checkpoint.format_utils"
    return _line(sys.executable, "-m", module, "dcp_to_torch", folder, _other(folder))


def _tuple(values: Iterable[str]) -> str:
    return f"({', '.join(map(literal, values))},)"


def _other(path: Path) -> Path:
    return path.with_name(f"{path.stem}.tensors.pt")


def _python(code: str, arguments: Iterable[Path]) -> str:
    return _line(sys.executable, "-c", f"import sys, torch; {code}", *arguments)


def _line(*words: str | Path) -> str:
    return shlex.join(map(str, words))
