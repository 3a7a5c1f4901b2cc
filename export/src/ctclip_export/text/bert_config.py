"""`config.json`: BERT's sizes, and the settings that have to be those of CT-CLIP's text encoder.

All other fields change nothing that is served: dropout, initialisation, caches, dtypes, labels, ids
of tokens (padding is masked), what a model returns besides, and CXR-BERT's own projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctclip_client.contract import MAX_TOKENS
from ctclip_client.errors import InvalidInput
from ctclip_export.model import TextConfig
from ctclip_export.text.folder import REMEDY, read_json

_COUNTS = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "max_position_embeddings": "positions",
    "type_vocab_size": "segment_types",
}
_FIXED: Mapping[str, tuple[object, ...]] = {
    "model_type": ("bert", "cxr-bert"),
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "per_layer_config": (None, {}),
    "quantization_config": (None, {}),
}
"""Where a field is missing, the first value holds."""


def read_config(path: Path) -> TextConfig:
    """Read and check a `config.json`.

    Raises: Unreadable, or InvalidInput naming the field.
    """
    content = read_json(path)
    numbers: dict[str, int] = {}
    for theirs, ours in _COUNTS.items():
        value = content.get(theirs)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidInput(f"{path}: {theirs} is {value!r}, expected a count.", REMEDY)
        numbers[ours] = value
    if numbers["width"] % numbers["heads"]:
        raise InvalidInput(
            f"{path}: hidden_size {numbers['width']} is not a multiple of num_attention_heads "
            f"{numbers['heads']}.",
            REMEDY,
        )
    if numbers["positions"] < MAX_TOKENS:
        raise InvalidInput(
            f"{path}: max_position_embeddings is {numbers['positions']}, expected at least "
            f"{MAX_TOKENS}: CT-CLIP cuts texts at {MAX_TOKENS} tokens.",
            REMEDY,
        )
    for name, values in _FIXED.items():
        if name in content and content[name] not in values:
            raise InvalidInput(
                f"{path}: {name} is {content[name]!r}, but CT-CLIP's text encoder has "
                f"{values[0]!r}.",
                REMEDY,
            )
    epsilon: Any = content.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise InvalidInput(f"{path}: layer_norm_eps is {epsilon!r}, expected 1e-12 or so.", REMEDY)
    return TextConfig(**numbers, layer_norm_eps=epsilon)
