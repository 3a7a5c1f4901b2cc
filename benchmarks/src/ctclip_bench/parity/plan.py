"""Which steps a parity check consists of on this machine, and why the others cannot run."""

from __future__ import annotations

from dataclasses import dataclass

from ctclip_bench.parity import ENGINE_STEP, REFERENCE_STEP, steps
from ctclip_bench.parity.inputs import ParityInputs
from ctclip_bench.parity.step_process import Step
from ctclip_client.contract import VISION
from ctclip_client.errors import InvalidInput, Unavailable
from ctclip_export.engines.run import missing_engine
from ctclip_export.parity.judge import StepAnswer
from ctclip_export.parity.providers import missing_cuda
from ctclip_export.parity.runtimes import (
    ONNX_RUNTIME_PRECISIONS,
    openvino_core,
    require_bfloat16,
)
from ctclip_export.precision.typed_twin import DTYPES
from ctclip_server.embedded.installation import find_installation


@dataclass(frozen=True)
class PlannedStep:
    """One step. missing: why it cannot run here, "" if it can.

    own_preprocessing: it does not need the volumes that the repository's graph prepared.
    same_graph: the step that runs the same graph in the same runtime and shows its tokens; its
    error of the similarity holds for this one, which hides them.
    """

    name: str
    answers: Step[StepAnswer]
    missing: str = ""
    own_preprocessing: bool = False
    asks_server: bool = False
    same_graph: str = ""


def planned_steps(inputs: ParityInputs) -> list[PlannedStep]:
    """From the reference to the client; the first that can run is what the others are compared
    with.
    """
    precision = inputs.release.precision
    found = []
    if inputs.checkpoint is not None:
        found.append(PlannedStep(REFERENCE_STEP, steps.pytorch, own_preprocessing=True))
        if precision in DTYPES and precision != "fp32":
            twin = PlannedStep(f"PyTorch {precision}", steps.pytorch_typed, own_preprocessing=True)
            found.append(twin)
    low = precision not in ONNX_RUNTIME_PRECISIONS
    no_kernels = f"its CPU provider has no {precision} kernels" if low else ""
    no_openvino = _missing_openvino(precision)
    in_onnx, in_openvino = (f"ONNX {precision}, {name}" for name in ("ONNX Runtime", "OpenVINO"))
    found += [
        PlannedStep(in_onnx, steps.onnx_runtime, no_kernels),
        PlannedStep(in_openvino, steps.openvino, no_openvino),
        PlannedStep(
            f"{in_onnx} on CUDA",
            steps.onnx_runtime_cuda,
            f"no {precision} graph was tried in its CUDA provider" if low else missing_cuda(),
        ),
        PlannedStep(ENGINE_STEP, steps.engine, missing_engine(inputs.file(VISION.name))),
    ]
    where = f" ({inputs.config_name})" if inputs.config_name else ""
    same_graph = in_openvino if (inputs.config_name or "").startswith("openvino") else in_onnx
    # The embedded server runs bf16 in OpenVINO; another one, wherever it likes.
    if inputs.connection is not None:
        where, same_graph, missing = f" at {inputs.connection.url}", "", ""
    else:
        missing = (no_openvino if low else "") or _missing_triton()
    found += [
        PlannedStep(
            f"served by Triton{where}", steps.served, missing,
            asks_server=True, same_graph=same_graph,
        ),
        PlannedStep(
            f"client, from a CT file{where}", steps.from_file, missing,
            own_preprocessing=True, asks_server=True, same_graph=same_graph,
        ),
    ]  # fmt: skip
    return found


def _missing_triton() -> str:
    """Why the embedded server cannot run here; "" if it can."""
    try:
        find_installation()
    except Unavailable as error:
        return error.cause
    return ""


def _missing_openvino(precision: str) -> str:
    """Why OpenVINO cannot judge a graph of this precision here; "" if it can."""
    try:
        if precision in ONNX_RUNTIME_PRECISIONS:
            openvino_core()
        else:
            require_bfloat16()
    except InvalidInput as error:
        return error.cause
    return ""
