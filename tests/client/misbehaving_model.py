"""Stands in for the ensemble `ctclip_pathologies` in a real Triton, and misbehaves when told to.

The z spacing of the request says what to do. Runs inside Triton's Python backend.
"""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils

PROVENANCE = {
    "release": "ask_for",
    "checkpoint": {"name": "none", "sha256": "0", "variant": "test", "random_weights": True},
    "geometry": {},
    "precision": "fp32",
    "findings": ["One", "Two"],
    "prompts": [
        {"finding": "One", "present": "One.", "absent": "No one."},
        {"finding": "Two", "present": "Two.", "absent": "No two."},
    ],
    "contract_version": 1,
}
ERRORS = {
    "invalid": "INVALID_ARG",
    "internal": "INTERNAL",
    "unavailable": "UNAVAILABLE",
    "unsupported": "UNSUPPORTED",
}


class TritonPythonModel:
    def initialize(self, args):
        self.whims = json.loads(
            json.loads(args["model_config"])["parameters"]["whims"]["string_value"]
        )

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        volume, spacing, rescale = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("VOLUME", "SPACING", "RESCALE")
        )
        ask_for = self.whims[round(float(spacing[0])) - 1]
        if ask_for in ERRORS:
            code = getattr(pb_utils.TritonError, ERRORS[ask_for])
            error = pb_utils.TritonError("SPACING: said so", code)
            return pb_utils.InferenceResponse(error=error)
        if ask_for == "slow":
            time.sleep(1.5)
        # Where a voxel came to lie, and the metadata: the test compares them with what it sent.
        logits = np.array([[volume[0, 0, -1], volume[-1, 0, 0]], [rescale[0], rescale[1]]], "f4")
        probabilities = np.array([0.25, 0.75], np.float32)
        embedding = np.array([volume.sum(dtype=np.int64), *volume.shape], np.float32)
        record = dict(PROVENANCE)
        if ask_for == "nan":
            logits[0, 0] = np.nan
        if ask_for == "range":
            probabilities[0] = 1.5
        if ask_for == "shape":
            probabilities = probabilities[:1]
        if ask_for == "version":
            record["contract_version"] = 2
        if ask_for == "count":
            record["findings"] = ["One"]
        if ask_for == "incomplete":
            del record["checkpoint"]
        text = json.dumps(record).encode() if ask_for != "garbage" else b"\xff{"
        outputs = {
            "LOGITS": logits[None],
            "PROBABILITIES": probabilities[None],
            "IMAGE_EMBEDDING": embedding[None],
            "PROVENANCE": np.array([text], np.object_),
        }
        if ask_for == "dtype":
            outputs["LOGITS"] = outputs["LOGITS"].astype(np.float64)
        return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in outputs.items()])
