"""The graphs in Triton's ONNX Runtime backend: `config.pbtxt`, and `configs/gpu.pbtxt`."""

from __future__ import annotations

from ctclip_client.contract import GPU_GRAPH, VISION, Dimensions, Model
from ctclip_export.repository.pbtxt import config, dynamic_batching, parameters

_FLOAT32 = """\
# float32 on a GPU, too, where ONNX Runtime would round the factors of products to 10 bits.
optimization {
  execution_accelerators {
    gpu_execution_accelerator [{ name: "cuda", parameters { key: "use_tf32", value: "0" } }]
  }
}"""
_HEURISTIC = {"cudnn_conv_algo_search": 1}
"""Of a GPU: by default each shape's first scans wait while every algorithm is tried. Under an
accelerator's parameters it would be overridden by that default."""


def onnxruntime_config(model: Model, dimensions: Dimensions) -> str:
    """The default `config.pbtxt`: on a GPU where there is one, but chosen for CPUs."""
    return _config(model, dimensions, together=model is not VISION)


def gpu_configs(model: Model, dimensions: Dimensions) -> dict[str, str]:
    """`configs/gpu.pbtxt`, and what the engines of other models have beside them: by NAME.

    Empty where the default config is right for a GPU, too.
    """
    if model is VISION:
        return {"gpu": _config(model, dimensions, together=True)}
    if GPU_GRAPH in model.further_files:
        text = _config(model, dimensions, file=GPU_GRAPH)
        return {"gpu": text, "tensorrt": text}
    return {}


def _config(model: Model, dimensions: Dimensions, *, together: bool = True, file: str = "") -> str:
    """together: join the requests of several callers. file: instead of `model.onnx`."""
    backend = 'backend: "onnxruntime"'
    return config(
        model, dimensions, f'{backend}\ndefault_model_filename: "{file}"' if file else backend,
        parameters(_HEURISTIC if model is VISION else {}),
        dynamic_batching(model, together=together),
        # One each: a second copy of the vision model would hold its weights and its 450 MB of code
        # similarities once more, without computing faster.
        "instance_group [{ count: 1, kind: KIND_AUTO }]",
        _FLOAT32,
    )  # fmt: skip
