"""Stands in for the ensemble `ctclip_pathologies` in a real Triton, and misbehaves when told to.

The z spacing of the request says what to do. Runs inside Triton's Python backend.
"""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

PROVENANCE = {
    "release": "misbehaving",
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
    "full": "INTERNAL",
    "unavailable": "UNAVAILABLE",
    "unsupported": "UNSUPPORTED",
    "busy": "UNAVAILABLE",
}
BUSY = 2
"""So many requests of one id are refused before it is answered."""


class TritonPythonModel:
    def initialize(self, args):
        self.behaviours = json.loads(
            json.loads(args["model_config"])["parameters"]["behaviours"]["string_value"]
        )
        self.seen = Counter()
        self.held, self.begun = (Path(args["model_repository"], n) for n in ("held", "begun"))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        volume, spacing, rescale = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("VOLUME", "SPACING", "RESCALE")
        )
        behaviour = self.behaviours[round(float(spacing[0])) - 1]
        self.seen[request.request_id()] += 1
        if behaviour in ERRORS and not (
            behaviour == "busy" and self.seen[request.request_id()] > BUSY
        ):
            code = getattr(pb_utils.TritonError, ERRORS[behaviour])
            said = "No space left on device" if behaviour == "full" else "SPACING: said so"
            error = pb_utils.TritonError(said, code)
            return pb_utils.InferenceResponse(error=error)
        if behaviour == "slow":
            time.sleep(1.5)
        if behaviour == "held":
            self.begun.touch()
            while self.held.exists():  # a test takes it away
                time.sleep(0.01)
        # Where a voxel came to lie, and the metadata: the test compares them with what it sent.
        logits = np.array([[volume[0, 0, -1], volume[-1, 0, 0]], [rescale[0], rescale[1]]], "f4")
        probabilities = np.array([0.25, 0.75], np.float32)
        embedding = np.array([volume.sum(dtype=np.int64), *volume.shape], np.float32)
        record = {**PROVENANCE, "request": request.request_id(), "asked": self.seen.total()}
        if behaviour == "nan":
            logits[0, 0] = np.nan
        if behaviour == "range":
            probabilities[0] = 1.5
        if behaviour == "shape":
            probabilities = probabilities[:1]
        if behaviour == "version":
            record["contract_version"] = 2
        if behaviour == "count":
            record["findings"] = ["One"]
        if behaviour == "incomplete":
            del record["checkpoint"]
        text = json.dumps(record).encode() if behaviour != "garbage" else b"\xff{"
        outputs = {
            "LOGITS": logits[None],
            "PROBABILITIES": probabilities[None],
            "IMAGE_EMBEDDING": embedding[None],
            "PROVENANCE": np.array([text], np.object_),
        }
        if behaviour == "dtype":
            outputs["LOGITS"] = outputs["LOGITS"].astype(np.float64)
        return pb_utils.InferenceResponse([pb_utils.Tensor(*item) for item in outputs.items()])
