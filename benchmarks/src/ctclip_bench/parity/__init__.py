"""The parity ladder: reference, typed twin, ONNX, engine, Triton and client, compared."""

ENGINE_RUNG = "TensorRT engine"
"""The rung that only a GPU can run; `make gpu-check` and the kept verdict look for it by name."""
REFERENCE_RUNG = "PyTorch fp32"
"""The checkpoint itself: the baseline where there is one."""
