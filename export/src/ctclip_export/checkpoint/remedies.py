"""Commands that make a file which is read out of one that is not, ready to be pasted."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from pathlib import Path

from ctclip_client.system.terminal import command_line

_LOADED = 'torch.load(sys.argv[1], map_location="cpu", weights_only=True)'
_PART = re.compile(r"-\d{5}-of-(?!00001)(\d{5})(\.\w+)$")
"""As transformers names them."""
BY_ITS_PROGRAM = "Have the program that wrote the file save model.state_dict() alone."


def one_of(commands: Mapping[str, str]) -> str:
    """A command for each model that can be meant, in one line, as remedies are printed."""
    if not commands:
        return BY_ITS_PROGRAM
    told = "; or if ".join(f"{name} is meant: {command}" for name, command in commands.items())
    return f"Save the one that is meant alone, and give that file. If {told}"


def tensors_of(path: Path, entry: str, name: str = "n", chosen: str = "") -> str:
    """Save a dictionary's tensors: those whose names `n` are chosen, under the new `name`.

    entry: its subscript, as in `["model"]`; "" for the whole file.
    """
    kept = f"isinstance(n, str) and torch.is_tensor(t){chosen}"
    code = f"s = {_LOADED}{entry}; s = {{{name}: t for n, t in s.items() if {kept}}}"
    return _python(f"{code}; torch.save(s, sys.argv[2])", [path, _other(path)])


def names_behind(
    path: Path, entry: str, prefix: str, others: Sequence[str], head: Sequence[str]
) -> str:
    """Save the tensors behind one prefix and not behind others, and those of a head beside them."""
    chosen = f"n.startswith({literal(prefix)})"
    if others:
        chosen += f" and not n.startswith({_tuple(others)})"
    if head:
        chosen += f" or n in {_tuple(head)}"
    return tensors_of(path, entry, chosen=f" and ({chosen})")


def prefixes_taken_off(path: Path, entry: str, prefixes: Iterable[str]) -> str:
    """Save all tensors, without these in front of their names."""
    bare = "n" + "".join(f".removeprefix({literal(prefix)})" for prefix in prefixes)
    return tensors_of(path, entry, bare)


def literal(value: object) -> str | None:
    """A value as Python reads it, in the quotes that a shell's own leave alone, if it can be."""
    if isinstance(value, str) and value.isprintable():
        return json.dumps(value, ensure_ascii=False)
    try:
        return repr(value) if ast.literal_eval(repr(value)) == value else None
    except Exception:  # noqa: BLE001 (a key can be anything: a tensor, NaN, a device)
        return None


def tensors_alone(path: Path) -> str:
    """Save a file's tensors and dictionaries without the objects in it."""
    module = "ctclip_export.checkpoint.tensors_alone"
    return command_line(sys.executable, "-m", module, path, _other(path))


def from_safetensors(path: Path) -> str:
    """Save a safetensors file as torch does."""
    return _python(
        "import safetensors.torch as s; torch.save(s.load_file(sys.argv[1]), sys.argv[2])",
        [path, _other(path)],
    )


def from_parts(path: Path) -> tuple[int, str] | None:
    """If by its name one of several files: of how many, and how to make one of them."""
    match = _PART.search(path.name)
    if match is None:
        return None
    stem, (count, suffix) = path.name[: match.start()], match.groups()
    parts = sorted(path.parent.glob(f"{escape(stem)}-?????-of-{count}{suffix}"))
    if len(parts) != int(count):
        return int(count), f"Put all {int(count)} into one folder; {len(parts)} stand in this one."
    load = 'torch.load(f, map_location="cpu", weights_only=True)'
    if suffix == ".safetensors":
        load = '__import__("safetensors.torch").torch.load_file(f)'
    code = (
        f"p = [{load} for f in sys.argv[2:]]; s = {{n: t for d in p for n, t in d.items()}}; "
        "len(s) == sum(map(len, p)) and all(map(torch.is_tensor, s.values())) or "
        'sys.exit("these are no parts of one model"); torch.save(s, sys.argv[1])'
    )
    joined = path.with_name(f"{stem}.joined.pt")
    return int(count), f"Join them, and give that file: {_python(code, [joined, *parts])}"


def from_distributed(folder: Path) -> str:
    """Save a folder of torch.distributed.checkpoint as one file."""
    module = "torch.distributed.checkpoint.format_utils"
    return command_line(sys.executable, "-m", module, "dcp_to_torch", folder, _other(folder))


def _tuple(values: Iterable[str]) -> str:
    return f"({', '.join(str(literal(value)) for value in values)},)"


def _other(path: Path) -> Path:
    return path.with_name(f"{path.stem}.tensors.pt")


def _python(code: str, arguments: Iterable[Path]) -> str:
    return command_line(sys.executable, "-c", f"import sys, torch; {code}", *arguments)
