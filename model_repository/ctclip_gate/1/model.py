"""Let a scan go on once its prompts have been encoded, in pairs.

Stands between the text and the image in ctclip_zero_shot: Triton would hand both out at once, and
Triton before 26.02 has no defence where one step fails while another is in flight. Its core may
then answer the request twice, which ends the server, or wait for itself for ever. Runs inside
Triton's Python backend.
"""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """SPACING FP64 [3], TEXT_EMBEDDING FP32 [2P, E] -> SPACING, as it came."""

    def execute(self, requests):
        """One response for each request; a refused one carries an error instead of tensors."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        rows = len(pb_utils.get_input_tensor_by_name(request, "TEXT_EMBEDDING").as_numpy())
        if rows < 1 or rows % 2:
            error = pb_utils.TritonError(
                f"TEXT_EMBEDDING (made of PROMPTS): got {rows} rows, expected pairs, a sentence "
                "for each finding and one against it",
                pb_utils.TritonError.INVALID_ARG,
            )
            return pb_utils.InferenceResponse(error=error)
        spacing = pb_utils.get_input_tensor_by_name(request, "SPACING").as_numpy()
        return pb_utils.InferenceResponse([pb_utils.Tensor("SPACING", spacing)])
