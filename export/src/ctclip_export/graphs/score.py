"""Scores as ONNX graphs: cosine · exp(temperature), and a softmax over each pair of prompts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import parser

from ctclip_export.graphs.constants import add_constants, name_node
from ctclip_export.graphs.versions import IR_VERSION, OPSET

_HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'

# Asks for an impossible shape, and so fails with its name, unless there is a row, and all
# lengths are finite. Compared row by row: a maximum may skip NaN.
_GUARD = """
    {name}_sent_length = ReduceL2 <keepdims = 1> ({source}, last_axis)
    {name}_row_good = Less ({name}_sent_length, endless)
    {name}_row_goodness = Cast <to = 7> ({name}_row_good)
    {name}_bad_rows = Sub (one, {name}_row_goodness)
    {name}_bad_count = ReduceSum <keepdims = 0> ({name}_bad_rows)
    {name}_finite = Equal ({name}_bad_count, zero)
    {name}_shape = Shape ({source})
    {name}_count = Gather ({name}_shape, zero)
    {name}_some = Greater ({name}_count, zero)
    {name}_good = And ({name}_finite, {name}_some)
    {name}_demanded = Where ({name}_good, same_shape, impossible_shape)
    {name}_checked = Reshape <allowzero = 0> ({source}, {name}_demanded)
"""
# Embeddings arrive with length 1; dividing by the length again makes the product a cosine whatever
# a caller sends, and costs nothing. A full matrix product: upstream multiplies row by row, which is
# silently wrong as soon as there are as many volumes as texts.
_COSINE = """
    {name}_length = ReduceL2 <keepdims = 1> ({source}, last_axis)
    {name}_safe_length = Max ({name}_length, smallest_length)
    {name} = Div ({source}, {name}_safe_length)
"""
_SOFTMAX = """
    transposed = Transpose <perm = [1, 0]> (texts)
    cosine = MatMul (images, transposed)
    scaled = Mul (cosine, scale)
    LOGITS = Reshape <allowzero = 0> (scaled, pairs)
    both = Softmax <axis = -1> (LOGITS)
    PROBABILITIES = Gather <axis = -1> (both, present)
"""
_LAST_AXIS = np.array([-1], np.int64)
_SMALLEST_LENGTH = np.float32(1e-12)
_IMAGES_REFUSAL = "IMAGE_EMBEDDING: expected finite rows, one for each volume, at least one"
_TEXTS_REFUSAL = (
    "TEXT_EMBEDDING (made of PROMPTS): expected finite rows, which must come in pairs, at least one"
)
_PAIRS_REFUSAL = "TEXT_EMBEDDING (made of PROMPTS): rows must come in pairs (present, absent)"


def score_graph(temperature: float, embedding_size: int) -> onnx.ModelProto:
    """IMAGE_EMBEDDING (V, E), TEXT_EMBEDDING (2P, E) -> LOGITS (V, P, 2), PROBABILITIES (V, P).

    `temperature` is stored as its logarithm: logits = cosine · exp(temperature).
    """
    text = f"""{_HEADER}
    ctclip_score (float[V,{embedding_size}] IMAGE_EMBEDDING, float[twoP,{embedding_size}] TEXT_EMBEDDING)
        => (float[V,P,2] LOGITS, float[V,P] PROBABILITIES)
    {{
        {_GUARD.format(name="images", source="IMAGE_EMBEDDING")}
        {_GUARD.format(name="texts", source="TEXT_EMBEDDING")}
        {_COSINE.format(name="images", source="images_checked")}
        {_COSINE.format(name="texts", source="texts_checked")}
        {_SOFTMAX}
    }}"""  # noqa: E501
    return _finish(text, temperature)


def findings_graph(temperature: float, text_embedding: NDArray[np.float32]) -> onnx.ModelProto:
    """IMAGE_EMBEDDING (V, E) -> LOGITS (V, F, 2), PROBABILITIES (V, F) for a fixed prompt bank.

    text_embedding: (2F, E) float32, present, absent, present, absent, …
    """
    prompts, embedding_size = text_embedding.shape
    text = f"""{_HEADER}
    ctclip_findings (float[V,{embedding_size}] IMAGE_EMBEDDING)
        => (float[V,{prompts // 2},2] LOGITS, float[V,{prompts // 2}] PROBABILITIES)
    {{
        {_GUARD.format(name="images", source="IMAGE_EMBEDDING")}
        {_COSINE.format(name="images", source="images_checked")}
        {_COSINE.format(name="texts", source="prompt_embedding")}
        {_SOFTMAX}
    }}"""
    return _finish(text, temperature, prompt_embedding=text_embedding.astype(np.float32))


def classfine_graph(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    mean: NDArray[np.float32] | None = None,
) -> onnx.ModelProto:
    """IMAGE_EMBEDDING (V, E) -> PROBABILITIES (V, C), by a trained head.

    weight: (C, E), bias: (C,). Without a mean it is ClassFine's: ReLU, Linear, sigmoid. With a mean
    (E,) it is a linear one: subtract that, Linear, sigmoid.
    """
    classes, embedding_size = weight.shape
    text = f"""{_HEADER}
    ctclip_classfine (float[V,{embedding_size}] IMAGE_EMBEDDING)
        => (float[V,{classes}] PROBABILITIES)
    {{
        {_GUARD.format(name="images", source="IMAGE_EMBEDDING")}
        {_COSINE.format(name="images", source="images_checked")}
        seen = {"Relu (images)" if mean is None else "Sub (images, mean)"}
        logits = Gemm <transB = 1> (seen, weight, bias)
        PROBABILITIES = Sigmoid (logits)
    }}"""
    model = parser.parse_model(text)
    further = {} if mean is None else {"mean": mean}
    return _guarded(model, weight=weight, bias=bias, **further)


def _finish(text: str, temperature: float, **constants: Any) -> onnx.ModelProto:
    return _guarded(
        parser.parse_model(text),
        scale=np.exp(np.float32(temperature)),
        pairs=np.array([0, -1, 2], np.int64),
        present=np.int64(0),
        **constants,
    )


def _guarded(model: onnx.ModelProto, **constants: Any) -> onnx.ModelProto:
    """Add the constants, and what the guards say when they refuse."""
    add_constants(
        model,
        last_axis=_LAST_AXIS,
        smallest_length=_SMALLEST_LENGTH,
        endless=np.float32(np.inf),
        zero=np.int64(0),
        one=np.int64(1),
        same_shape=np.array([0, 0], np.int64),
        impossible_shape=np.array([7_919, 7_919], np.int64),
        **constants,
    )
    name_node(model, "images_checked", _IMAGES_REFUSAL)
    name_node(model, "texts_checked", _TEXTS_REFUSAL)
    name_node(model, "LOGITS", _PAIRS_REFUSAL)
    return model
