"""The demo checkpoint's bytes: kept results name it by its SHA-256."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from ctclip_bench.demo import random_checkpoint
from ctclip_bench.demo.random_checkpoint import random_model, save_in_upstream_layout
from ctclip_export.model import CTCLIP, ModelConfig
from ctclip_export.model.config import TextConfig, VisionConfig

CONFIG = ModelConfig(
    VisionConfig((5, 14, 42), (5, 14, 14), 16, 1, 7, 11, 2, 1, 3, 9),
    TextConfig(132, 36, 1, 12, 48, 600, 3),
)
SEED = 5


def made() -> CTCLIP:
    rows = torch.ones(CONFIG.vision.codebook_size, CONFIG.vision.width)
    return random_model(CONFIG, SEED, lambda _: rows)


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    mine, others = tmp_path / "mine" / "ct.pt", tmp_path / "others" / "ct.pt"
    for path in (mine, others):
        path.parent.mkdir()
    save_in_upstream_layout(made(), mine, SEED)
    program = (
        "import sys, runpy; from pathlib import Path; module = runpy.run_path(sys.argv[1]); "
        "module['save_in_upstream_layout'](module['made'](), Path(sys.argv[2]), module['SEED'])"
    )
    command = [sys.executable, "-c", program, __file__, str(others)]
    subprocess.run(command, check=True, timeout=120)
    assert mine.read_bytes() == others.read_bytes()
    assert {path.name for path in mine.parent.iterdir()} == {"ct.pt", "ct.pt.RANDOM_WEIGHTS"}


def test_the_archive_is_named_after_the_file(tmp_path: Path) -> None:
    """As torch.save(state, "ct.pt.part-1") names it, and as the kept results' checkpoint has it."""
    save_in_upstream_layout(made(), tmp_path / "ct.pt", SEED)
    with zipfile.ZipFile(tmp_path / "ct.pt") as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"ct.pt"}


def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ct.pt").write_bytes(b"an older one")

    def save(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(random_checkpoint.torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        save_in_upstream_layout(made(), tmp_path / "ct.pt", SEED)
    assert (tmp_path / "ct.pt").read_bytes() == b"an older one"
    assert len(list(tmp_path.iterdir())) == 2
