"""Texts as token ids, by the very code that the repository's tokenizer runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import MAX_TOKENS
from ctclip_export.text.word_pieces import bert_tokenizer

Ids = NDArray[np.int64]


def tokenised(texts: Sequence[str], vocabulary: str) -> tuple[Ids, Ids]:
    """Token ids and mask (N, L), padded to the longest text; vocabulary: a word piece a line."""
    encodings = bert_tokenizer(vocabulary, MAX_TOKENS).encode_batch(list(texts))
    ids = np.array([encoding.ids for encoding in encodings], np.int64)
    mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
    return ids, mask
