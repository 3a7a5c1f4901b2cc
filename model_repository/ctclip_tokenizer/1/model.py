"""Split texts into the word pieces of the checkpoint's BERT, padded to the request's longest.

Runs inside Triton's Python backend, which imports this folder as a package.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from .word_pieces import bert_tokenizer

_FIELD = "TEXT (PROMPTS of ctclip_zero_shot)"
_LIMITS = ("max_tokens", "max_texts")
_BACKENDS_OWN = ("EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS")


class TritonPythonModel:
    """TEXT BYTES [N] -> INPUT_IDS, ATTENTION_MASK INT64 [N, L]."""

    def initialize(self, args):
        """Load the vocabulary, and refuse one that is not the checkpoint's."""
        parameters = json.loads(args["model_config"])["parameters"]
        unknown = set(parameters) - {*_LIMITS, *_BACKENDS_OWN}
        if unknown:
            raise pb_utils.TritonModelException(
                f"parameter {min(unknown)} has no effect: tokens are the checkpoint's, and "
                f"{', '.join(_LIMITS)} are all that can be set"
            )
        max_tokens, self.max_texts = (int(parameters[name]["string_value"]) for name in _LIMITS)
        folder = Path(args["model_repository"]) / args["model_version"]
        record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        content = (folder / "vocab.txt").read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != record["file_sha256"]:
            raise pb_utils.TritonModelException(
                f"vocab.txt has SHA-256 {digest}, expected {record['file_sha256']}: it is not the "
                "vocabulary this repository was exported with; export it again"
            )
        self.tokenizer = bert_tokenizer(content.decode("utf-8"), max_tokens)

    def execute(self, requests):
        """One response for each request; a refused one carries an error instead of tensors."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        raw = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
        try:
            if not 1 <= len(raw) <= self.max_texts:
                raise ValueError(
                    f"{_FIELD}: got {len(raw) or 'no'} texts, expected 1 to {self.max_texts}"
                )
            texts = [_decode(index, item) for index, item in enumerate(raw)]
        except ValueError as problem:
            error = pb_utils.TritonError(str(problem), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        encodings = self.tokenizer.encode_batch_fast(texts)
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("INPUT_IDS", ids), pb_utils.Tensor("ATTENTION_MASK", mask)]
        )


def _decode(index, item):
    if isinstance(item, str):
        return item
    try:
        return item.decode("utf-8")
    except UnicodeDecodeError as error:
        got = f"0x{item[error.start]:02x} at byte {error.start}"
        raise ValueError(f"{_FIELD}: item {index} has {got}, expected UTF-8") from error
