"""A text model's folder for a checkpoint of random weights."""

from __future__ import annotations

import json
from pathlib import Path

from ctclip_export.model import TextConfig


def write_text_model(config: TextConfig, vocabulary: bytes, folder: Path) -> Path:
    """A text model's folder: BERT's `config.json` and `vocab.txt`. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.segment_types,
        "layer_norm_eps": config.layer_norm_eps,
    }
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "vocab.txt").write_bytes(vocabulary)
    return folder
