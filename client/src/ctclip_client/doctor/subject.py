"""What a target is, by its contents rather than by its name alone."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.readers.dicom import is_dicom
from ctclip_client.readers.registry import ct_by_content, head_of, is_ct_by_name
from ctclip_client.system.files import special

Kind = Literal["checkpoint", "repository", "ct", "server"]

CONFIG = "config.pbtxt"

_EXPECTED = (
    "ctclip doctor takes a checkpoint, a CT file, a model repository (a folder whose sub-folders "
    "hold config.pbtxt) or a server (host:port of its gRPC service, usually 8001)."
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST_PORT = re.compile(r"^(\[[^\s\[\]]+\]|[^\s:/\[\]]+):\d+$")
_CHECKPOINT_NAMES = (".pt", ".pth", ".ckpt", ".safetensors")
_PICKLES = (b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")
"""Of protocol 2 to 5, as torch.save wrote before it wrote archives."""
_LOOKED_AT = 256


@dataclass(frozen=True)
class Subject:
    """kind: what the target is. recognised_as: the same for a person, with the sign it was told by.

    address: host:port and `tls`, for a server; path, for everything else.
    certain: false where only trying to read it as a CT can tell whether it is one.
    """

    kind: Kind
    target: str
    recognised_as: str
    path: Path = Path()
    address: str = ""
    tls: bool = False
    certain: bool = True


def recognise(target: str) -> Subject:
    """Say what a target is. Reads at most the first bytes of a file and the names in a folder.

    Raises:
        InvalidInput: it is nothing that can be examined.
        Unreadable: it is there and cannot be opened.
    """
    scheme, mark, rest = target.partition("://")
    if mark and _SCHEME.fullmatch(scheme):
        return _server_by_url(target, scheme.lower(), rest)
    path = Path(target)
    try:
        kind = special(path)
    except (FileNotFoundError, NotADirectoryError):
        return _absent(target)
    except OSError as error:
        raise Unreadable(f"{target}: {error.strerror or error}.", _EXPECTED) from error
    except ValueError as error:  # a NUL byte
        raise InvalidInput(f"{target!r}: no name of a file ({error}).", _EXPECTED) from error
    if kind:  # opening a pipe would wait for ever
        raise InvalidInput(f"{target}: {kind}, expected a file or a folder.", _EXPECTED)
    try:
        return _folder(target, path) if path.is_dir() else _file(target, path)
    except OSError as error:
        raise Unreadable(
            f"{target}: {error.strerror or error}.", "Check the permission to read it."
        ) from error


def _server_by_url(target: str, scheme: str, rest: str) -> Subject:
    if scheme in ("http", "https"):
        raise InvalidInput(
            f"{target}: an HTTP address; a server is examined through its gRPC service.",
            "Give host:port of gRPC, usually 8001: grpc://localhost:8001.",
        )
    if scheme not in ("grpc", "grpcs"):
        raise InvalidInput(f"{target}: unknown scheme '{scheme}'.", _EXPECTED)
    tls = scheme == "grpcs"
    return Subject(
        "server", target, f"a server ({scheme}://{' with TLS' if tls else ''})",
        address=rest.rstrip("/"), tls=tls,
    )  # fmt: skip


def _absent(target: str) -> Subject:
    if Path(target).is_symlink():
        raise Unreadable(f"{target}: a link that leads nowhere.", _EXPECTED)
    if _HOST_PORT.match(target):
        return Subject(
            "server", target, "a server (host:port, and no file of this name)", address=target
        )
    raise InvalidInput(f"{target!r}: no such file or folder, and no host:port.", _EXPECTED)


def _file(target: str, path: Path) -> Subject:
    head = head_of(path)
    name = path.name.lower()
    if _is_torch_archive(path):
        return Subject("checkpoint", target, "a checkpoint (archive with data.pkl)", path)
    if name.endswith(_CHECKPOINT_NAMES):
        return Subject("checkpoint", target, f"a checkpoint (named {path.suffix})", path)
    if not head:
        raise Unreadable(f"{target}: the file is empty.", _EXPECTED)
    form = ct_by_content(head, path)
    if form:
        return Subject("ct", target, f"a CT file ({form})", path)
    if is_ct_by_name(path):
        return Subject("ct", target, "a CT file (by its name)", path)
    if head.startswith(_PICKLES):
        return Subject("checkpoint", target, "a checkpoint (a pickle)", path)
    if name == CONFIG or name.endswith(".onnx"):
        raise InvalidInput(
            f"{target}: a single file of a model repository.",
            "Give the repository: the folder that holds one folder for each model.",
        )
    return Subject("ct", target, "a CT file (a format that only reading can tell)", path,
                   certain=False)  # fmt: skip


def _is_torch_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def _folder(target: str, path: Path) -> Subject:
    names = {entry.name: entry for entry in path.iterdir()}
    if any(name.startswith("ctclip_") for name in names) or any(
        (entry / CONFIG).is_file() for entry in names.values()
    ):
        return Subject("repository", target, "a model repository", path)
    if CONFIG in names:
        raise InvalidInput(
            f"{target}: one model of a repository.",
            f"Give the folder above it: {path.absolute().parent}",
        )
    if "config.json" in names and names.keys() & {"vocab.txt", "tokenizer.json"}:
        raise InvalidInput(
            f"{target}: a text model's folder.",
            "It is examined with its checkpoint: ctclip doctor CHECKPOINT --text-model DIR.",
        )
    if not names:
        raise Unreadable(f"{target}: the folder is empty.", _EXPECTED)
    files = [entry for entry in sorted(names.values())[:_LOOKED_AT] if entry.is_file()]
    if any(is_dicom(head_of(file)) for file in files):
        return Subject("ct", target, "a CT (a folder of DICOM files)", path)
    return Subject("ct", target, "a CT (a folder that is no model repository)", path,
                   certain=False)  # fmt: skip
