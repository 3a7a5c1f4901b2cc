"""The parity ladder: reference, typed twin, ONNX, engine, Triton and client, compared."""
