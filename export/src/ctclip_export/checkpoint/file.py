"""Read an untrusted file, or refuse it by saying what it is. Nothing in it is executed."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ctclip_client.errors import InvalidInput, Unreadable

V2_FILES = "CT-CLIP_v2.pt, CT_VocabFine_v2.pt or CT_LiPro_v2.pt"

_AGAIN = "Download it again and compare its size with the source's."
_CLASSFINE_PREFIX = "trained_model."
_HEAD = ("classifier.weight", "classifier.bias")
_OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""What files of torch.save began with before they were zip archives (torch.serialization)."""


@dataclass(frozen=True)
class Contents:
    """The tensors of a file, memory-mapped.

    state: CT-CLIP's own, by upstream's names. classifier: a ClassFine (CT-LiPro) file's head, which
    holds the whole CT-CLIP behind a prefix; {} for other files. wrapped: every name stood behind
    the "module." of DataParallel or DDP.
    """

    state: dict[str, Tensor]
    classifier: dict[str, Tensor]
    wrapped: bool


def read_contents(path: Path) -> Contents:
    """Read a checkpoint.

    Raises: Unreadable for a file that is no checkpoint, InvalidInput for entries that are no
    tensors with their values in the file.
    """
    stored = _read_state(path)
    wrapped = all(name.startswith("module.") for name in stored)
    if wrapped:
        stored = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    if not any(name.startswith(_CLASSFINE_PREFIX) for name in stored):
        return Contents(stored, {}, wrapped)
    trained = {n.removeprefix(_CLASSFINE_PREFIX): t for n, t in stored.items() if n not in _HEAD}
    return Contents(trained, {n: stored[n] for n in _HEAD if n in stored}, wrapped)


def declared_random(path: Path) -> Path:
    """The file that stands beside a checkpoint of random weights, so that every result says so.

    The checkpoint itself must be exactly of upstream's layout and has no room for it.
    """
    return path.with_name(path.name + ".RANDOM_WEIGHTS")


def _read_state(path: Path) -> dict[str, Tensor]:
    remedy = f"--checkpoint takes a file saved by torch.save, such as {V2_FILES}."
    if not path.is_file():
        raise Unreadable(
            f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.", remedy
        )
    _check_archive(path, remedy)
    try:
        with warnings.catch_warnings():  # torch's advice on odd pickles is not for our user
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise Unreadable(
            f"{path}: wants to run code while it is read ({_wanted(error)}); a checkpoint needs "
            "tensors only.",
            "Do not load it by other means unless you trust its source. " + remedy,
        ) from error
    except Exception as error:  # torch trusts the pickle to be well formed: anything may come
        # Its first sentence says what is wrong; later ones advise to load it without protection.
        reason = re.split(r"\.? *\n|\.\s", str(error))[0] or type(error).__name__
        raise Unreadable(
            f"{path}: damaged or not a PyTorch checkpoint ({reason}).", _AGAIN
        ) from error
    if not isinstance(content, dict) or not content:
        raise Unreadable(
            f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors.", remedy
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InvalidInput(
                f"{path}: entry {name!r} is a {type(value).__name__}, expected a tensor.",
                "Save the state dict alone: torch.save(checkpoint['state_dict'], FILE).",
            )
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise InvalidInput(
                f"{path}: tensor '{name}' is {value.layout} on device '{value.device}', expected a "
                "plain tensor with its values in the file.",
                f"Take an original {V2_FILES}.",
            )
    return content


def _check_archive(path: Path, remedy: str) -> None:
    """Refuse what is no zip archive, which is how torch.save writes since 2020."""
    try:
        if zipfile.is_zipfile(path):
            return
        with path.open("rb") as file:
            start = file.read(len(_OLD_FORMAT))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", remedy) from error
    except zipfile.BadZipFile as error:
        raise Unreadable(f"{path}: damaged ({error}).", _AGAIN) from error
    if start.startswith(b"PK\x03\x04"):
        raise Unreadable(
            f"{path}: the file is cut off: its directory, which stands at the end, is missing.",
            _AGAIN,
        )
    if start == _OLD_FORMAT:
        raise Unreadable(
            f"{path}: saved in the format of PyTorch before 1.6, which cannot be memory-mapped.",
            "Save it again: torch.save(torch.load(OLD, weights_only=True), NEW).",
        )
    raise Unreadable(f"{path}: not a PyTorch checkpoint.", remedy)


def _wanted(error: pickle.UnpicklingError) -> str:
    """The name of what the pickle asked for, out of torch's long explanation."""
    match = re.search(r"GLOBAL (\S+)", str(error))
    return match.group(1) if match else "an object other than a tensor"
