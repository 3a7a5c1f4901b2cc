"""Read an untrusted file, or refuse it by saying what it is. Nothing in it is executed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_export.checkpoint.remedies import (
    from_distributed,
    from_parts,
    from_safetensors,
    tensors_alone,
)
from ctclip_export.checkpoint.unwrap import Contents, unwrap

V2_FILES = "CT-CLIP_v2.pt, CT_VocabFine_v2.pt or CT_LiPro_v2.pt"

_AGAIN = "Download it again and compare its size with the source's."
_REMEDY = f"--checkpoint takes a file saved by torch.save, such as {V2_FILES}."
_OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""What files of torch.save began with before they were zip archives (torch.serialization)."""
_RUNS = {"builtins", "importlib", "nt", "os", "posix", "runpy", "shutil", "subprocess", "sys"}
"""Modules that nothing in a checkpoint has a use for."""
_LISTED = 4


def read_contents(path: Path) -> Contents:
    """Read a checkpoint.

    Raises: Unreadable for a file that is no checkpoint, InvalidInput for one that holds several
    models, or tensors without their values.
    """
    found = unwrap(path, _load(path))
    for name, value in {**found.state, **found.classifier}.items():
        if value.layout is not torch.strided or value.is_nested or value.device.type != "cpu":
            raise InvalidInput(
                f"{path}: tensor '{name}' is {value.layout} on device '{value.device}', expected a "
                "plain tensor with its values in the file.",
                f"Take an original {V2_FILES}.",
            )
    return found


def declared_random(path: Path) -> Path:
    """The file that stands beside a checkpoint of random weights, so that every result says so.

    The checkpoint itself must be exactly of upstream's layout and has no room for it.
    """
    return path.with_name(path.name + ".RANDOM_WEIGHTS")


def _load(path: Path) -> Mapping[Any, Any]:
    if path.is_dir() and (path / ".metadata").is_file():
        raise Unreadable(
            f"{path}: a folder of torch.distributed.checkpoint, expected one file.",
            f"Save it as one, and give that: {from_distributed(path)}",
        )
    if not path.is_file():
        raise Unreadable(
            f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.", _REMEDY
        )
    _refuse_parts(path)
    archive = _is_archive(path)
    try:
        with warnings.catch_warnings():  # torch's advice on odd pickles is not for our user
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        names = _wanted(path, error)
        savable = archive and names and not any(name.split(".")[0] in _RUNS for name in names)
        shown = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
        remedy = "Do not load it by other means unless you trust its source. " + _REMEDY
        if savable:
            remedy = f"Save its tensors alone, which runs none of that: {tensors_alone(path)}"
        raise Unreadable(
            f"{path}: wants to run code while it is read "
            f"({shown or 'an object other than a tensor'}); a checkpoint needs tensors only.",
            remedy,
        ) from error
    except Exception as error:  # torch trusts the pickle to be well formed: anything may come
        # Its first sentence says what is wrong; later ones advise to load it without protection.
        reason = re.split(r"\.? *\n|\.\s", str(error))[0] or type(error).__name__
        raise Unreadable(
            f"{path}: damaged or not a PyTorch checkpoint ({reason}).", _AGAIN
        ) from error
    if not isinstance(content, Mapping) or not content:
        raise Unreadable(
            f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors.", _REMEDY
        )
    return content


def _refuse_parts(path: Path) -> None:
    joined = from_parts(path)
    if joined is not None:
        count, command = joined
        raise Unreadable(
            f"{path}: by its name one of {count} files that the tensors are spread over.",
            f"With all {count} beside it, join them, and give that file: {command}",
        )


def _is_archive(path: Path) -> bool:
    """Whether it is a zip archive, which is how torch.save writes since 2020; it can be mapped."""
    try:
        if zipfile.is_zipfile(path):
            return True
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_OLD_FORMAT))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", _REMEDY) from error
    except zipfile.BadZipFile as error:
        raise Unreadable(f"{path}: damaged ({error}).", _AGAIN) from error
    if start == _OLD_FORMAT:
        return False
    if start.startswith(b"PK\x03\x04"):
        raise Unreadable(
            f"{path}: the file is cut off: its directory, which stands at the end, is missing.",
            _AGAIN,
        )
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < size:
        raise Unreadable(
            f"{path}: a safetensors file, expected one saved by torch.save.",
            "Save it so, where the safetensors package is installed, and give that file: "
            + from_safetensors(path),
        )
    raise Unreadable(f"{path}: not a PyTorch checkpoint.", _REMEDY)


def _wanted(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """Names of what the pickle asks for: all, or the first out of torch's long explanation."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 (it reads fewer kinds of pickles than torch.load)
        match = re.search(r"GLOBAL (\S+)", str(error))
        return [match.group(1)] if match else []
