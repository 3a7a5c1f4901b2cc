"""Relevance maps as images that lie on the scan they explain."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_client.errors import InvalidInput
from ctclip_client.grid import Grid
from ctclip_client.maps.images import Frame, write_blocks, write_image
from ctclip_client.maps.tokens import TokenAxis, token_axes
from ctclip_client.results import Explanation
from ctclip_client.system.files import destination, whole_file
from ctclip_client.volume import Volume

TOKENS_FILE = "relevance-tokens.nii.gz"
INDEX_FILE = "relevance.json"
_MEANING = (
    "A token's value is its share of logit present - logit absent: above 0 it speaks for the "
    "finding, below 0 against it. All tokens of a finding in the file of tokens add up to the "
    "difference. In a finding's own file every voxel of the scan has the value of the token that "
    "holds its centre, so the voxels do not add up to anything; 0 is outside of what the model "
    "sees."
)
_RANDOM = "RANDOM WEIGHTS"
_LONGEST_NAME = 60


def save_relevance(
    explanation: Explanation,
    volume: Volume,
    folder: str | os.PathLike[str],
    *,
    mark: str | None = None,
) -> Path:
    """Write the maps of one scan as NIfTI files, to be loaded over the scan in any viewer.

    Args:
        explanation: what `Client.explain` returned for this volume.
        volume: as `read_volume` gave it.
        folder: made if it is not there; files of an earlier call are replaced.
        mark: a word for the scan, which `relevance.json` keeps to tell whose maps these are; no
            name of it, as the files may be handed on.

    Returns the path of `relevance.json`, which is written last and names the others:

    `relevance-tokens.nii.gz`: (i, j, k, F) float32, the tokens themselves along the axes on which
        the scan is stored, with an affine that puts each on the voxels it covers. What lies
        outside of the scan (padding) is in it, too. For numbers.
    `relevance-NN-FINDING.nii.gz`: (i, j, k) float32 on the scan's own grid, with its placement in
        the patient: nearest neighbour of the tokens, 0 where the model sees nothing. For viewers.

    Headers are new; nothing that may name the patient comes from the scan's.

    Raises:
        InvalidInput: the volume came from no file, belongs to another geometry, or the folder
            cannot be written.
    """
    grid = volume.source.grid
    if grid is None:
        raise InvalidInput(
            "The volume was made from an array: there is no file that a map could lie on.",
            "Take it from read_volume(path), or use explanation.relevance as it is.",
        )
    folder = Path(folder)
    _forget(folder)
    axes = _stored_axes(explanation, volume, grid)
    tokens = _stored_tokens(explanation.relevance, grid)  # (i, j, k, F)
    provenance = explanation.provenance
    text = "CT-CLIP relevance" + (f", {_RANDOM}" if provenance.random_weights else "")
    write_image(folder / TOKENS_FILE, tokens, _token_frame(grid, axes, text, tokens))
    token_of = [axis.tokens(n) for axis, n in zip(axes, grid.shape, strict=True)]
    seen = np.ix_(*(np.isin(np.arange(a.count), t) for a, t in zip(axes, token_of, strict=True)))
    entries = []
    for index, (finding, logits) in enumerate(
        zip(explanation.findings, explanation.logits.astype(float), strict=True)
    ):
        blocks = tokens[..., index]
        name = f"relevance-{index + 1:02d}-{_file_name(finding)}.nii.gz"
        frame = Frame(
            grid.pixdim, grid.unit, grid.sform, grid.qform, text, float(np.abs(blocks).max())
        )
        write_blocks(folder / name, blocks, token_of, frame)
        total = float(blocks.sum(dtype=np.float64))
        entries.append(
            {
                "index": index,
                "finding": finding,
                "file": name,
                "logit_difference": float(logits[0] - logits[1]),
                "sum_of_tokens": total,
                "sum_outside_of_scan": total - float(blocks[seen].sum(dtype=np.float64)),
            }
        )
    content = {
        **({"scan": mark} if mark else {}),
        "meaning": _MEANING,
        **({"warning": _RANDOM} if provenance.random_weights else {}),
        "tokens": {
            "file": TOKENS_FILE,
            "axes": ["i", "j", "k", "finding"],
            "shape": list(tokens.shape),
            "placed": grid.sform is not None or grid.qform is not None,
        },
        "findings": entries,
        "provenance": dict(provenance.content),
    }
    with whole_file(folder / INDEX_FILE) as file:
        file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return folder / INDEX_FILE


def mark_of(index: Path) -> str | None:
    """The mark of the scan whose maps a `relevance.json` names; None where it has none, or is not
    there."""
    if not os.path.isfile(index):  # noqa: PTH113 (Path.is_file raises in a closed folder)
        return None
    try:
        return str(json.loads(index.read_bytes())["scan"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _forget(folder: Path) -> None:
    """Make the folder if it is not there, and take away its index: it vouches for the others."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        destination(folder / INDEX_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}.",
            "Name a folder that you may write to.",
        ) from error


def _stored_axes(explanation: Explanation, volume: Volume, grid: Grid) -> list[TokenAxis]:
    """Where tokens lie along the stored axes (i, j, k)."""
    geometry, token_shape = explanation.provenance.geometry()
    if explanation.relevance.shape[1:] != token_shape:
        raise InvalidInput(
            f"relevance: got {explanation.relevance.shape}, expected tokens {token_shape}.",
            "Give the explanation as Client.explain returned it.",
        )
    axes = token_axes(volume.voxels.shape, volume.spacing_mm, geometry, token_shape)
    stored = []
    for a in range(3):
        m = grid.axes.index(a)
        axis, n = axes[m], grid.shape[a]
        stored.append(axis.backwards(n) if grid.flips[m] else axis)
    return stored


def _stored_tokens(relevance: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """(F, T, H', W') -> (i, j, k, F): tokens along the axes on which the scan is stored."""
    turned = relevance[(slice(None), *(slice(None, None, -1 if f else 1) for f in grid.flips))]
    return turned.transpose(*(1 + grid.axes.index(a) for a in range(3)), 0)


def _token_frame(
    grid: Grid, axes: list[TokenAxis], text: str, tokens: NDArray[np.float32]
) -> Frame:
    scale = np.array([axis.width for axis in axes])
    offset = np.array([axis.centre for axis in axes])
    sform, qform = (
        None if placement is None else placement.scaled(scale, offset)
        for placement in (grid.sform, grid.qform)
    )
    pixdim = (*(np.array(grid.pixdim) * scale).tolist(), 1.0)
    return Frame(pixdim, grid.unit, sform, qform, text, float(np.abs(tokens).max()))


def _file_name(finding: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", finding.lower()).strip("-")[:_LONGEST_NAME] or "finding"
