"""The parity check: which ways of computing the answer are compared with the reference, on what."""

ENGINE_STEP = "TensorRT engine"
"""The step that only a GPU can run; `make gpu-check` looks for it by name."""
REFERENCE_STEP = "PyTorch fp32"
"""The checkpoint itself: the baseline where there is one."""
