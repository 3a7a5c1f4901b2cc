"""Scores as ONNX graphs: cosine · exp(temperature), and a softmax over each pair of prompts."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import parser

from ctclip_export.graphs.constants import add_constants, name_node
from ctclip_export.graphs.versions import IR_VERSION, OPSET

_HEADER = f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}]>'

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
_PAIRS_REFUSAL = "TEXT_EMBEDDING: rows must come in pairs (present, absent)"


def score_graph(temperature: float, embedding_size: int) -> onnx.ModelProto:
    """IMAGE_EMBEDDING (V, E), TEXT_EMBEDDING (2P, E) -> LOGITS (V, P, 2), PROBABILITIES (V, P).

    `temperature` is stored as its logarithm: logits = cosine · exp(temperature).
    """
    text = f"""{_HEADER}
    ctclip_score (float[V,{embedding_size}] IMAGE_EMBEDDING, float[twoP,{embedding_size}] TEXT_EMBEDDING)
        => (float[V,P,2] LOGITS, float[V,P] PROBABILITIES)
    {{
        {_COSINE.format(name="images", source="IMAGE_EMBEDDING")}
        {_COSINE.format(name="texts", source="TEXT_EMBEDDING")}
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
        {_COSINE.format(name="images", source="IMAGE_EMBEDDING")}
        {_COSINE.format(name="texts", source="prompt_embedding")}
        {_SOFTMAX}
    }}"""
    return _finish(text, temperature, prompt_embedding=text_embedding.astype(np.float32))


def classfine_graph(weight: NDArray[np.float32], bias: NDArray[np.float32]) -> onnx.ModelProto:
    """IMAGE_EMBEDDING (V, E) -> PROBABILITIES (V, 18): ReLU, Linear, sigmoid.

    weight: (18, E), bias: (18,), of the ClassFine head.
    """
    classes, embedding_size = weight.shape
    text = f"""{_HEADER}
    ctclip_classfine (float[V,{embedding_size}] IMAGE_EMBEDDING)
        => (float[V,{classes}] PROBABILITIES)
    {{
        {_COSINE.format(name="images", source="IMAGE_EMBEDDING")}
        positive = Relu (images)
        logits = Gemm <transB = 1> (positive, weight, bias)
        PROBABILITIES = Sigmoid (logits)
    }}"""
    model = parser.parse_model(text)
    add_constants(
        model, weight=weight, bias=bias, last_axis=_LAST_AXIS, smallest_length=_SMALLEST_LENGTH
    )
    return model


def _finish(text: str, temperature: float, **constants: NDArray[np.float32]) -> onnx.ModelProto:
    model = parser.parse_model(text)
    add_constants(
        model,
        scale=np.exp(np.float32(temperature)),
        last_axis=_LAST_AXIS,
        smallest_length=_SMALLEST_LENGTH,
        pairs=np.array([0, -1, 2], np.int64),
        present=np.int64(0),
        **constants,
    )
    name_node(model, "LOGITS", _PAIRS_REFUSAL)
    return model
