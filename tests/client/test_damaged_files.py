"""Two hundred damaged files: each is refused, or read as what it says; nothing else happens."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctclip_client import Unreadable, Volume, read_volume

from ..nifti_files import chest, save
from ..volume_files import save_itk, save_rad_chestct

HU = chest((12, 12, 12))
SAMPLES: dict[str, Callable[[Path], Path]] = {
    "scan.nii.gz": lambda path: save(path, HU),
    "scan.nrrd": lambda path: save_itk(path, HU),
    "scan.mha": lambda path: save_itk(path, HU),
    "scan.npz": lambda path: save_rad_chestct(path, HU),
    "raw.nrrd": lambda path: save_itk(path, HU, packed=False),
    "raw.mha": lambda path: save_itk(path, HU, packed=False),
}
FILES_EACH = 36
_HEADER_BYTES = 700
_MOST_MB = 300


def damaged(content: bytes, random: random.Random) -> bytes:
    """Cut short, or up to five bytes changed, most of them in the header."""
    if random.random() < 0.25:
        return content[: random.randrange(len(content))]
    changed = bytearray(content)
    end = random.choice((len(content), min(len(content), _HEADER_BYTES)))
    for _ in range(random.randrange(1, 6)):
        changed[random.randrange(end)] ^= random.randrange(1, 256)
    return bytes(changed)


@pytest.mark.parametrize("name", SAMPLES)
def test_damage_is_refused_or_without_effect(name: str, tmp_path: Path) -> None:
    """Packed voxels have a checksum: where they are read, they are right, in whatever order the
    header has them. Others have none, and are as many as the header says."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    path = SAMPLES[name](tmp_path / name)
    content = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(FILES_EACH):
        path.write_bytes(damaged(content, dice))
        outcome: Volume | Unreadable
        try:
            outcome = read_volume(path)
        except Unreadable as error:
            outcome = error
        if isinstance(outcome, Unreadable):
            assert outcome.cause
            assert outcome.remedy
        elif name.startswith("scan"):
            hu = HU.clip(-1000, 1000) if name.endswith(".npz") else HU
            np.testing.assert_array_equal(np.sort(outcome.voxels, None), np.sort(hu, None))
        else:
            assert outcome.voxels.size == HU.size
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    assert grown < _MOST_MB
