"""Refuse metadata that cannot be a CT's, and tell the client which release answers.

Stands before all that computes with a volume, in every ensemble that takes one. Runs inside
Triton's Python backend.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

_LIMITS = ("spacing_mm_above", "spacing_mm_below")
_BACKENDS_OWN = ("EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS")


class TritonPythonModel:
    """SPACING FP64 [3], RESCALE FP32 [2] -> the same, checked; PROVENANCE BYTES [1]."""

    def initialize(self, args):
        """Read the limits from the config's parameters and the release from `provenance.json`."""
        parameters = json.loads(args["model_config"])["parameters"]
        unknown = set(parameters) - {*_LIMITS, *_BACKENDS_OWN}
        if unknown:
            raise pb_utils.TritonModelException(
                f"parameter {min(unknown)} has no effect: {', '.join(_LIMITS)} are all that can "
                "be set"
            )
        self.above, self.below = (float(parameters[name]["string_value"]) for name in _LIMITS)
        folder = Path(args["model_repository"]) / args["model_version"]
        record = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        public = json.dumps(record["release"], ensure_ascii=False, sort_keys=True)
        self.provenance = np.array([public.encode("utf-8")], dtype=np.object_)

    def execute(self, requests):
        """One response for each request; a refused one carries an error instead of tensors."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        spacing = pb_utils.get_input_tensor_by_name(request, "SPACING").as_numpy()
        rescale = pb_utils.get_input_tensor_by_name(request, "RESCALE").as_numpy()
        problem = self._spacing_problem(spacing) or self._rescale_problem(rescale)
        if problem:
            error = pb_utils.TritonError(problem, pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=error)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("SPACING", spacing),
                pb_utils.Tensor("RESCALE", rescale),
                pb_utils.Tensor("PROVENANCE", self.provenance),
            ]
        )

    def _spacing_problem(self, spacing):
        for axis, value in zip("zxy", spacing, strict=True):
            # Written so that NaN, which compares with nothing, is refused.
            if not self.above < value < self.below:
                return (
                    f"SPACING: {axis} is {value} mm, expected a finite number between "
                    f"{self.above} and {self.below} mm"
                )
        return ""

    def _rescale_problem(self, rescale):
        slope, intercept = rescale
        if not np.isfinite(slope) or slope == 0:
            return f"RESCALE: slope is {slope}, expected a finite number other than 0"
        if not np.isfinite(intercept):
            return f"RESCALE: intercept is {intercept}, expected a finite number"
        return ""
