"""ONNX graphs: traced encoders, and those that are put together by hand, with their guards."""
