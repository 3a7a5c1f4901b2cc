"""Quantise chosen products of a float32 graph, by ONNX Runtime's quantiser.

OpenVINO's own (NNCF 3.4, model type transformer) was measured beside it on the demo checkpoint, two
CTs, in OpenVINO 2026.4: by its defaults 0.553 of the codes agreed; told to leave alone what is left
alone here, and the convolutions, 0.9914 as with this one, in the same time (best of ten runs on two
cores: 1.86 s, this one 1.79 s, float32 2.68 s). So it would be one more library for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationMethod,
    QuantFormat,
    QuantType,
    TensorData,
    TensorsData,
    quantize_static,
    save_tensors_data,
)
from torch import Tensor, nn

from ctclip_client.system.progress import Advance
from ctclip_export.graphs.quiet import quiet
from ctclip_export.model import CTViT
from ctclip_export.precision.products import dense_products
from ctclip_export.precision.typed_twin import trunk_parts

SENSITIVE = ("patch_projection", "attention.to_kv")
"""Measured on the demo checkpoint, the worst of three CT volumes, share of equal codes: 0.935 with
all layers in int8, 0.960 without the first of these. Keys and values read the residual stream,
which no norm bounds."""

SEVEN_BIT_WEIGHTS = True
"""Weights from −64 to 64. CPUs without VNNI multiply int8 by an instruction (`vpmaddubsw`) that
adds two products of an unsigned and a signed byte in 16 bits, and cuts off what does not fit:
2 · 255 · 127 does not, 2 · 255 · 64 does. Triton's ONNX Runtime backend has no setting for it, so
it lies in the graph. Measured, share of codes that agree with PyTorch, the worse of the scans that
judged the export:

                           golden checkpoint, 60 codes   demo checkpoint, 13,824 codes
                           VNNI      AVX2 (emulated)     VNNI
    8 bits, ONNX Runtime   0.983     0.767               0.991
    8 bits, OpenVINO       0.983     0.783               0.992
    7 bits, ONNX Runtime   0.917     0.917               0.991
    7 bits, OpenVINO       0.917     0.917               0.990
    pairs, ONNX Runtime    0.950     0.950               0.991
    pairs, OpenVINO        0.950     0.950               0.991

Of 60 codes 0.89 is asked, and five or one are chance. "pairs" gives each output channel the finest
steps by which no two weights that are added overflow: 1 to 10 % finer, and no gain that shows.
Time on two cores with VNNI, medians of 7 rounds in turn, float32 = 1: ONNX Runtime 0.64 with 8
bits, 0.65 with 7; OpenVINO 0.64 and 0.63. Without VNNI no time was measured, and with AVX-512 but
without VNNI nothing."""

_OPTIONS: dict[str, Any] = {
    # Zero points of 0 are all that TensorRT takes.
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    # A product's sum leaves it in float32: rounding it once more would gain nothing.
    "OpTypesToExcludeOutputQuantization": ["MatMul"],
}


class Quantiser:
    """Writes a vision graph with some of its products in int8, by ranges that are taken once.

    parts: of the trunk that may be quantised, in the order of computation. Left in float32 are, for
    what they cost and gain, the layers of `SENSITIVE`; and what is no layer of the trunk: attention
    itself, the code search, the projection into the joint space.
    """

    def __init__(self, proto: onnx.ModelProto, model: CTViT, folder: Path) -> None:
        """proto: traced in float32 from `model`. folder: room for files."""
        self._layers = {
            product: layer
            for product, layer in dense_products(proto.graph, model).items()
            if not layer.endswith(SENSITIVE)
        }
        self._model = model
        self._inputs = {node.name: node.input[0] for node in proto.graph.node}
        self._source = folder / "float32.onnx"
        self._ranges = folder / "ranges.json"
        onnx.save(proto, self._source)
        self.parts = [
            part
            for part in trunk_parts(model)
            if any(_within(layer, part) for layer in self._layers.values())
        ]

    @torch.no_grad()
    def calibrate(
        self, volumes: Iterable[NDArray[np.float32]], advance: Advance = lambda _: None
    ) -> None:
        """Take the largest |input| of every layer over volumes (1, 1, D, H, W), VOXELS.

        By the reference model, which computes the same: the library's own way would hold all
        tensors of a volume at once, 9 GB at the published geometry.
        """
        largest = dict.fromkeys(self._layers.values(), 0.0)

        def widen(layer: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
            def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                here = (abs(float(end)) for end in inputs[0].aminmax())
                largest[layer] = max(largest[layer], *here)

            return hook

        hooks = [
            self._model.get_submodule(layer).register_forward_pre_hook(widen(layer))
            for layer in largest
        ]
        try:
            for voxels in volumes:
                self._model(torch.from_numpy(voxels))
                advance(1)
        finally:
            for hook in hooks:
                hook.remove()
        ranges = {
            self._inputs[product]: TensorData(
                lowest=np.float32(-largest[layer]), highest=np.float32(largest[layer])
            )
            for product, layer in self._layers.items()
        }
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), self._ranges)

    def write(self, target: Path, parts: Collection[str]) -> None:
        """Write the graph with the products of some parts in int8.

        Weights int8 for each output channel, inputs int8 for the whole tensor, both symmetric. The
        graph says so by QuantizeLinear and DequantizeLinear, which every runtime here reads.
        """
        products = [
            product
            for product, layer in self._layers.items()
            if any(_within(layer, part) for part in parts)
        ]
        with quiet():  # it recommends a clean-up that the exporter has done
            quantize_static(
                self._source,
                target,
                None,  # calibrated already
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=SEVEN_BIT_WEIGHTS,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=products,
                calibrate_method=CalibrationMethod.MinMax,
                calibration_cache_path=self._ranges,
                extra_options=_OPTIONS,
            )


def _within(layer: str, part: str) -> bool:
    return f"{layer}.".startswith(f"{part}.")
