"""The parity check: which ways of computing the answer are compared with the reference, on what."""

ENGINE_STEP = "TensorRT engine"
"""The step of the plans that a GPU serves; `make gpu-check` looks for it by name."""
REFERENCE_STEP = "PyTorch fp32"
"""The checkpoint itself: the baseline where there is one."""
