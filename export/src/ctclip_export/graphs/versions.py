"""The operator set and file format that every runtime of the project can read."""

OPSET = 20
"""First with Gelu and LayerNormalization both whole; TensorRT 11 and ONNX Runtime 1.28 take it."""
OPSETS = {"fp32": OPSET, "fp16": OPSET, "bf16": 22, "int8": OPSET}
"""By precision: bfloat16 convolutions came with opset 22."""
IR_VERSION = 10
"""Newest that the ONNX Runtime of Triton 26.08 loads."""
