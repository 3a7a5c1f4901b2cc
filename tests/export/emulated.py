"""Run one graph on one volume and keep what it answers: a program for an emulated CPU.

    qemu-x86_64 -cpu Haswell python emulated.py RUNTIME GRAPH INPUTS.npz OUTPUTS.npz

It imports the runtime and NumPy only, since every import is slow there.
"""

from __future__ import annotations

import sys

import numpy as np


def main(runtime: str, graph: str, inputs: str, outputs: str) -> None:
    with np.load(inputs) as arrays:
        feed = {name: arrays[name] for name in arrays.files}
    np.savez(outputs, **run(runtime, graph, feed))


def run(runtime: str, graph: str, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(graph, options, ["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feed), strict=True))
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it would report home
    import openvino

    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = compiled(feed)
    return {output.get_any_name(): np.array(answer[output]) for output in compiled.outputs}


if __name__ == "__main__":
    main(*sys.argv[1:])
