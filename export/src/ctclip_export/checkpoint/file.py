"""Read an untrusted file, or refuse it by saying what it is. Nothing in it is executed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path

import torch

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_export.checkpoint.names import CODEBOOK
from ctclip_export.checkpoint.remedies import (
    BY_ITS_PROGRAM,
    from_distributed,
    from_parts,
    from_safetensors,
    tensors_alone,
)
from ctclip_export.checkpoint.unwrap import TRAINED, Contents, dictionaries, unwrap

V2_FILES = "CT-CLIP_v2.pt, CT_VocabFine_v2.pt or CT_LiPro_v2.pt"

_AGAIN = "Download it again and compare its size with the source's."
_REMEDY = f"--checkpoint takes a file saved by torch.save, such as {V2_FILES}."
_OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""What files of torch.save began with before they were zip archives (torch.serialization)."""
_RUNS = re.compile(
    r"(importlib|nt|os|posix|runpy|shutil|subprocess|sys)\."
    r"|(builtins|__builtin__|_?io)\.(eval|exec|execfile|compile|__import__|getattr|open|input)$"
)
"""What nothing in a checkpoint has a use for."""
_LISTED = 4


def read_contents(path: Path) -> Contents:
    """Read a checkpoint.

    Raises: Unreadable for a file that is no checkpoint, InvalidInput for one that holds several
    models, or tensors without their values.
    """
    found = unwrap(path, _load(path))
    part = from_parts(path)
    if part is not None and not _is_whole(found):
        raise Unreadable(
            f"{path}: holds no whole model, and is by its name one of {part[0]} files that the "
            "tensors are spread over.",
            part[1],
        )
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


def _is_whole(found: Contents) -> bool:
    """Whether a model's first tensors are there and its last, which are a ClassFine's head."""
    headless = TRAINED in found.prefix and not found.classifier
    return not headless and found.state.keys() >= {
        "temperature", CODEBOOK, "to_text_latent.weight", "to_visual_latent.weight",
    }  # fmt: skip


def _load(path: Path) -> object:
    if path.is_dir() and (path / ".metadata").is_file():
        raise Unreadable(
            f"{path}: a folder of torch.distributed.checkpoint, expected one file.",
            f"Save it as one, and give that: {from_distributed(path)}",
        )
    if not path.is_file():
        raise Unreadable(
            f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.", _REMEDY
        )
    archive = _is_archive(path)
    try:
        with warnings.catch_warnings():  # torch's advice on odd pickles is not for our user
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        names = _wanted(path, error)
        shown = ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")
        if not names or any(map(_RUNS.match, names)):
            remedy = "Do not load it by other means unless you trust its source. " + _REMEDY
        elif _leaves_a_model(path):
            remedy = f"Save its tensors alone, which runs none of that: {tensors_alone(path)}"
        else:
            remedy = (
                "Without running that no CT-CLIP can be taken out of it; the model itself may have "
                f"been saved as an object. {BY_ITS_PROGRAM}"
            )
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
    if content == {} or next(dictionaries(content), None) is None:
        held = "n empty dictionary" if content == {} else f" {type(content).__name__}"
        raise Unreadable(f"{path}: holds a{held}, expected a dictionary of tensors.", _REMEDY)
    return content


def _leaves_a_model(path: Path) -> bool:
    # Imported here, so that running it as a program does not import it twice.
    from ctclip_export.checkpoint.tensors_alone import without_objects

    try:
        without_objects(path)
    except Exception:  # noqa: BLE001 (no stand-in passes everywhere: anything may come)
        return False
    return True


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
        part = from_parts(path)
        named = f", by its name one of {part[0]} that the tensors are spread over" if part else ""
        alone = f"{part[1]}; or if this one holds all, save it" if part else "Save it"
        raise Unreadable(
            f"{path}: a safetensors file{named}, expected one saved by torch.save.",
            f"{alone} by torch, where the safetensors package is installed, and give that file: "
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
