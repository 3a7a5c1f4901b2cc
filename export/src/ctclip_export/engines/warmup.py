"""What Triton warms an engine up with: a drawn phantom and a prompt of the bank, no patient's data.

Triton reads raw tensors from MODEL/warmup, as `configs/tensorrt.pbtxt` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import (
    ATTENTION_MASK,
    INPUT_IDS,
    PREPROCESS,
    TEXT_ENCODER,
    TOKENIZER,
    VISION,
    VOXELS,
)
from ctclip_client.release.records import ReleaseRecord
from ctclip_client.system.files import placed
from ctclip_export.graphs.run import run_preprocess
from ctclip_export.repository.tensorrt import WARMUP_TOKENS
from ctclip_export.samples.phantom import chest_phantom
from ctclip_export.text.tokens import tokenised

FOLDER = "warmup"


def write_warmup(repository: Path, version: str, release: ReleaseRecord) -> None:
    """Write both models' files, through the repository's own preprocessing and vocabulary.

    Raises:
        OSError: they cannot be written; each is written whole, or not at all.
    """
    scan = chest_phantom(release.geometry)
    voxels = run_preprocess(repository / PREPROCESS.name / version / "model.onnx", scan)
    _write(repository / VISION.name, {VOXELS.name: voxels})
    vocabulary = (repository / TOKENIZER.name / version / "vocab.txt").read_text(encoding="utf-8")
    text = release.prompts[0].absent
    (tokens,), _ = tokenised([text], vocabulary)
    ids, mask = np.zeros((2, WARMUP_TOKENS), np.int64)
    count = min(len(tokens), WARMUP_TOKENS)
    ids[:count], mask[:count] = tokens[:count], 1
    _write(repository / TEXT_ENCODER.name, {INPUT_IDS.name: ids, ATTENTION_MASK.name: mask})


def _write(model: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    folder = model / FOLDER
    folder.mkdir(exist_ok=True)
    for name, array in tensors.items():
        with placed(folder / name) as file:
            file.write(np.ascontiguousarray(array).tobytes())
