"""`configs/NAME.pbtxt`: the same models in other engines, chosen when Triton starts."""

from __future__ import annotations

from ctclip_client.contract import TEXT_ENCODER, VISION, Dimensions, Model
from ctclip_export.repository.openvino import openvino_config
from ctclip_export.repository.tensorrt import tensorrt_config


def variant_configs(model: Model, dimensions: Dimensions) -> dict[str, str]:
    """Configs of the model by NAME; empty where every engine uses the default."""
    if model not in (VISION, TEXT_ENCODER):
        return {}
    return {
        "openvino": openvino_config(model, dimensions, {}),
        # A choice to be made knowingly: PROVENANCE names the precision of the release's files,
        # which are the same here.
        "openvino-bf16": openvino_config(model, dimensions, {"HINT_BF16": "YES"}),
        "tensorrt": tensorrt_config(model, dimensions),
    }
