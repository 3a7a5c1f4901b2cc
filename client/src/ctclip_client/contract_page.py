"""`docs/contract.md`, written from the contract for callers who do not use this library.

    python -m ctclip_client.contract_page > docs/contract.md

A test compares the page in git with this one, and runs the examples on it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ctclip_client.contract import (
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MAX_TOKENS,
    MODELS,
    PUBLISHED_DIMENSIONS,
    PUBLISHED_FINDINGS,
    SPACING_MM_RANGE,
    TEXT_ENCODER,
    VERSION,
    Ensemble,
    Model,
    Tensor,
)

LARGEST_MESSAGE_BYTES = 2**31 - 1
HTTP_DEFAULT_BYTES = 64 * 2**20
"""Triton's own default for the body of an HTTP request, since 25.06."""
IF_EXPORTED = " (if exported)"
_EVERYTHING: tuple[Model | Ensemble, ...] = (
    *ENSEMBLES, *CLASSFINE_ENSEMBLES, *MODELS, *CLASSFINE_MODELS,
)  # fmt: skip

_PURPOSES = {
    "ctclip_pathologies": "probabilities of the release's own findings",
    "ctclip_zero_shot": "probabilities of findings in your own words",
    "ctclip_image_embedding": "the scan as a vector, for search",
    "ctclip_text_embedding": "texts as vectors, for search and for more than fits into one request",
    "ctclip_explain": "findings, and how much each part of the scan speaks for them",
    "ctclip_classify": "probabilities of a trained classification head",
    "ctclip_gate": "lets a scan go on once its prompts are encoded, in pairs",
    "ctclip_check": "refuses metadata that cannot be a CT's, names the release",
    "ctclip_preprocess": "stored voxels to the model's grid",
    "ctclip_vision": "image encoder",
    "ctclip_tokenizer": "texts to word pieces",
    "ctclip_text": "text encoder",
    "ctclip_score": "image vectors against pairs of text vectors",
    "ctclip_findings": "image vectors against the release's own findings",
    "ctclip_relevance": "each token's share in a finding's logits",
    "ctclip_classfine": "classification head",
}

_AXES = {
    "z": "slices of the scan, any number",
    "x": "columns of the scan, any number",
    "y": "rows of the scan, any number",
    "V": "volumes",
    "P": "pairs of prompts",
    "2P": "prompts: present, absent, present, absent, …",
    "N": "texts",
    "L": f"tokens of the longest text of the request, at most {MAX_TOKENS}",
    "B": "batch",
    "D": "the model's grid towards Superior",
    "H": "the model's grid towards Left",
    "W": "the model's grid towards Posterior",
    "T": "tokens towards Superior",
    "H'": "tokens towards Left",
    "W'": "tokens towards Posterior",
    "E": "length of an embedding",
    "F": "findings of the release",
}


@dataclass(frozen=True)
class Refusal:
    """One way to be refused: what was wrong, and the status in both protocols."""

    cause: str
    grpc: str
    http: int


REFUSALS = (
    Refusal("a spacing outside its limits, NaN or infinite", "INVALID_ARGUMENT", 400),
    Refusal("a slope of 0, NaN or infinite; an intercept NaN or infinite", "INVALID_ARGUMENT", 400),
    Refusal("a tensor with another name, data type or number of axes", "INVALID_ARGUMENT", 400),
    Refusal("an input missing, or one too many", "INVALID_ARGUMENT", 400),
    Refusal("more texts than fit into one request", "INVALID_ARGUMENT", 400),
    Refusal("no texts, or bytes that are not UTF-8", "INVALID_ARGUMENT", 400),
    Refusal("a volume with an axis of size 0", "INTERNAL", 500),
    Refusal("an odd number of prompts", "INVALID_ARGUMENT", 400),
    Refusal("an embedding, a code or a length that is none, sent to a model", "INTERNAL", 500),
    Refusal("voxels, token ids or a mask that are none, sent to a model", "INTERNAL", 500),
    Refusal("an unknown model or version", "NOT_FOUND", 404),
)
"""Each is provoked by a test, over gRPC and over HTTP."""

UNTESTED_REFUSALS = (
    Refusal("a full queue, or too long in it: try again later", "UNAVAILABLE", 503),
)


def render() -> str:
    """The whole page as Markdown."""
    parts = [
        _INTRODUCTION,
        "## What to call",
        _entries(ENSEMBLES, CLASSFINE_ENSEMBLES),
        _TENSORS,
        "## Axes",
        _axes(),
        "## Examples",
        _EXAMPLES,
        "## Limits",
        _limits(),
        _MORE_TEXTS,
        "## Refusals",
        _REFUSALS_TEXT,
        _refusals(REFUSALS),
        "As Triton documents it, provoked by no test:",
        _refusals(UNTESTED_REFUSALS),
        "## The models behind",
        _MODELS_TEXT,
        _entries(MODELS, CLASSFINE_MODELS),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _entries(
    always: Sequence[Model] | Sequence[Ensemble], optional: Sequence[Model] | Sequence[Ensemble]
) -> str:
    rows = [("model", "what for", "inputs", "outputs")]
    for entry in (*always, *optional):
        note = IF_EXPORTED if entry in optional else ""
        batch = entry.max_batch_size if isinstance(entry, Model) else 0
        purpose = _PURPOSES.get(entry.name, "") + note
        if batch:
            purpose += f"; B up to {batch}"
        rows.append(
            (
                f"`{entry.name}`",
                purpose.strip(),
                _tensors(entry.inputs, batched=batch > 0),
                _tensors(entry.outputs, batched=batch > 0),
            )
        )
    return _table(rows)


def _tensors(tensors: Iterable[Tensor], *, batched: bool) -> str:
    first = ("B",) if batched else ()
    return "<br>".join(
        f"{tensor.name} {tensor.dtype} [{', '.join(map(str, (*first, *tensor.dims)))}]"
        for tensor in tensors
    )


def _axes() -> str:
    sizes = PUBLISHED_DIMENSIONS.sizes()
    used = {
        dim
        for entry in _EVERYTHING
        for tensor in (*entry.inputs, *entry.outputs)
        for dim in tensor.dims
        if isinstance(dim, str)
    } | {"B"}
    ordered = [name for name in _AXES if name in used] + sorted(used - set(_AXES))
    rows = [("axis", "meaning", "as published")]
    rows += [(name, _AXES.get(name, ""), str(sizes.get(name, ""))) for name in ordered]
    return (
        "A release may have other sizes than the published ones: PROVENANCE states them, and so\n"
        "does the model's metadata.\n\n" + _table(rows)
    )


def _limits() -> str:
    low, high = SPACING_MM_RANGE
    relevance = PUBLISHED_DIMENSIONS.finding_count * 4
    for size in PUBLISHED_DIMENSIONS.token_shape:
        relevance *= size
    rows = [
        ("what", "limit"),
        ("spacing, each axis", f"more than {low} mm, less than {high:g} mm"),
        ("slope and intercept", "finite, slope not 0"),
        ("volume", "at least one voxel along every axis"),
        ("texts, or prompts, in one request", f"1 to {TEXT_ENCODER.max_batch_size}"),
        ("one text", f"{MAX_TOKENS} tokens; longer ones are cut without an error"),
        (
            "gRPC message",
            f"{LARGEST_MESSAGE_BYTES:,} bytes, which nothing can raise: about "
            f"{LARGEST_MESSAGE_BYTES // (2 * 512 * 512):,} slices of 512×512",
        ),
        (
            "HTTP body",
            f"{HTTP_DEFAULT_BYTES:,} bytes by Triton's default, too few for a chest CT; the "
            "server's `--http-max-input-size` raises it (1 GiB in docker-compose.yml). Beyond it: "
            "HTTP 400",
        ),
        (
            "answer of an ensemble",
            f"RELEVANCE is the largest output: {relevance:,} bytes as published",
        ),
    ]
    return _table(rows)


def _refusals(refusals: Sequence[Refusal]) -> str:
    rows = [(refusal.cause, refusal.grpc, str(refusal.http)) for refusal in refusals]
    return _table([("cause", "gRPC", "HTTP"), *rows])


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines)


def main() -> int:
    """Print the page."""
    sys.stdout.write(render())
    return 0


_GRID = " × ".join(map(str, PUBLISHED_DIMENSIONS.volume_shape))
_AT_ONCE = TEXT_ENCODER.max_batch_size
_NODULE = PUBLISHED_FINDINGS[9]

_INTRODUCTION = f"""
<!-- Written by `python -m ctclip_client.contract_page > docs/contract.md`. Do not edit. -->
# The contract, for callers of any language

Version {VERSION}. Triton speaks the [KServe v2 protocol][kserve] over gRPC (port 8001) and HTTP
(port 8000); this page says what to put into it. A Python program is better served by
`ctclip_client`, which reads CT files, checks them and does all that stands here.

[kserve]: https://github.com/kserve/kserve/tree/master/docs/predict-api/v2
"""

_TENSORS = f"""
## What goes in

A scan is three tensors.

**VOLUME**: the stored voxels, [z, x, y]. The axes are the patient's: z towards Superior, x towards
Left, y towards Posterior. In memory little-endian, without gaps, y fastest. An axial slice thus
lies there as the transpose of its usual display. Slices being square, no shape tells x from y, and
the server takes the axes as they come: scores of a flipped patient look like any others.

- From axial DICOM: sort the slices by their position along the slices' normal, stack them as
  (z, row, column), flip axes until they run to Superior, Posterior, Left, and swap the last two.
- From NIfTI: reorient by the affine to Left, Posterior, Superior, then (x, y, z) → (z, x, y).

**SPACING**: the voxel's edges in mm, (z, x, y). Between slices it is the distance of their
positions, not SliceThickness. Double precision, and the shortest decimal of what a header holds in
single precision (0.9, not 0.8999999762): the size of the resampled volume is cut off to whole
voxels.

**RESCALE**: slope and intercept, HU = slope · voxel + intercept.

- Stored values with one slope and one intercept for the scan, within −32768 … 32767: send both as
  they are. Values below −1024 (padding) are normal.
- Anything else (slopes that differ by slice, values beyond 32767, fractions of HU): send
  round(32 · clip(HU, −1000, 1000)) with slope 0.03125 and intercept 0.
- Voxels that are HU already: slope 1, intercept 0. Applying the file's slope and intercept twice is
  the common mistake, and its results look plausible.

Do nothing else. The server clips to −1000 … 1000 HU, resamples to the model's spacing, and crops or
pads around the centre to the model's grid ({_GRID} as published).

**PROMPTS** and **TEXT**: UTF-8. Prompts come in pairs, a sentence for a finding, then one against
it: "{_NODULE.present}", "{_NODULE.absent}".

## What comes out

- **LOGITS**, last axis: for, against. **PROBABILITIES**: the first of the softmax over the two.
  Those of `ctclip_classify` come from a head of its own, in the order of `classes` in PROVENANCE.
- **IMAGE_EMBEDDING**, **TEXT_EMBEDDING**: vectors of length 1; their dot product is the cosine.
- **RELEVANCE**: its sum over the last three axes is logit for − logit against. Its tokens divide
  the model's grid evenly.
- **PROVENANCE**: one JSON text, to be kept with the result: `release`, `contract_version`,
  `checkpoint` (with `random_weights` true, results mean nothing), `geometry`, `precision`, and
  `findings` and `prompts` in the order of the outputs. Refuse a `contract_version` other than
  {VERSION}; compare embeddings of one `release` only.

Take all outputs of an ensemble, by naming none. Asked for some of them, Triton may answer
"unexpected deadlock", an [old fault][subset] that leaves out steps which the others need.

[subset]: https://github.com/triton-inference-server/server/issues/7482
"""

_MODELS_TEXT = """
The ensembles above are made of these; each can be called by itself. Models that take a batch have
it as their first axis, B; the others state every axis.
"""

_REFUSALS_TEXT = """
gRPC answers with a status and a message, HTTP with a status and `{"error": "…"}`. Decide by the
status: messages may change. Each of these is provoked by a test, over both protocols, on the
embedded Triton 2.51:
"""

_MORE_TEXTS = f"""
For more than {_AT_ONCE} texts, or {_AT_ONCE // 2} pairs of prompts: encode the scan once with
`ctclip_image_embedding`, the texts in pieces with `ctclip_text_embedding`, and hand both to
`ctclip_score`, as the second example does.
"""

_PYTHON = """
import json

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

voxels = np.load("volume.npy")  # (z, x, y) int16, towards Superior, Left, Posterior
scan = {
    "VOLUME": ("INT16", np.ascontiguousarray(voxels)),
    "SPACING": ("FP64", np.array([2.5, 0.7, 0.7], np.float64)),  # mm, (z, x, y)
    "RESCALE": ("FP32", np.array([1, -1024], np.float32)),  # HU = 1 · voxel − 1024
}


def tensors(arrays):
    result = []
    for name, (dtype, array) in arrays.items():
        tensor = InferInput(name, list(array.shape), dtype)
        tensor.set_data_from_numpy(array)
        result.append(tensor)
    return result


with InferenceServerClient("localhost:8001") as client:
    answer = client.infer("ctclip_pathologies", tensors(scan), client_timeout=120)

release = json.loads(answer.as_numpy("PROVENANCE")[0])
for finding, probability in zip(release["findings"], answer.as_numpy("PROBABILITIES")[0]):
    print(f"{probability:.6f}  {finding}")
"""

_MANY_PROMPTS = f"""
# Goes on after the first example.
with open("prompts.txt", encoding="utf-8") as lines:  # for, against, for, against, …
    prompts = [line.rstrip("\\n") for line in lines]

with InferenceServerClient("localhost:8001") as client:
    image = client.infer("ctclip_image_embedding", tensors(scan), client_timeout=120)
    pieces = []
    for start in range(0, len(prompts), {_AT_ONCE}):
        texts = np.array([t.encode() for t in prompts[start : start + {_AT_ONCE}]], np.object_)
        inputs = tensors({{"TEXT": ("BYTES", texts)}})
        piece = client.infer("ctclip_text_embedding", inputs, client_timeout=120)
        pieces.append(piece.as_numpy("TEXT_EMBEDDING"))
    embeddings = {{
        "IMAGE_EMBEDDING": ("FP32", image.as_numpy("IMAGE_EMBEDDING")),  # (1, E)
        "TEXT_EMBEDDING": ("FP32", np.concatenate(pieces)),  # (2P, E)
    }}
    scores = client.infer("ctclip_score", tensors(embeddings), client_timeout=120)

for sentence, probability in zip(prompts[::2], scores.as_numpy("PROBABILITIES")[0]):
    print(f"{{probability:.6f}}  {{sentence}}")
"""

_CURL = """
shape=133,512,512  # of volume.raw, (z, x, y): int16, little-endian, y fastest
printf '{"inputs":[
  {"name":"VOLUME","datatype":"INT16","shape":[%s],"parameters":{"binary_data_size":%s}},
  {"name":"SPACING","datatype":"FP64","shape":[3],"data":[2.5,0.7,0.7]},
  {"name":"RESCALE","datatype":"FP32","shape":[2],"data":[1,-1024]}]}' \\
  "$shape" "$(($(wc -c < volume.raw)))" > header.json
cat header.json volume.raw > request.bin
curl --silent --show-error \\
  --header "Content-Type: application/octet-stream" \\
  --header "Inference-Header-Content-Length: $(($(wc -c < header.json)))" \\
  --data-binary @request.bin \\
  http://localhost:8000/v2/models/ctclip_pathologies/infer
"""

_CURL_TEXT = """
curl --silent --show-error --header "Content-Type: application/json" --data '{"inputs":[
  {"name":"TEXT","datatype":"BYTES","shape":[2],"data":["Nodule is present.","No effusion."]}]}' \\
  http://localhost:8000/v2/models/ctclip_text_embedding/infer
"""

_GRPCURL = """
text=$(printf 'Nodule is present.' | base64)
grpcurl -plaintext -import-path protobuf -proto grpc_service.proto -d '{
  "model_name": "ctclip_text_embedding",
  "inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": ["1"],
              "contents": {"bytes_contents": ["'"$text"'"]}}]
}' localhost:8001 inference.GRPCInferenceService/ModelInfer
"""

_EXAMPLES = f"""
All are taken from this page by a test and run against a real Triton, the last one where grpcurl is
installed.

### Python with tritonclient

<!-- example: python -->
```python
{_PYTHON.strip()}
```

For findings in your own words, add the input `PROMPTS` and call `ctclip_zero_shot`. For more of
them than fit:

<!-- example: many-prompts -->
```python
{_MANY_PROMPTS.strip()}
```

### curl

A volume goes as [binary tensor data][binary]: a JSON header, then the bytes. Small tensors may
stand in the header. Triton does not encrypt HTTP: keep it on the machine, or put a proxy with TLS
before it.

[binary]: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

<!-- example: curl -->
```sh
{_CURL.strip()}
```

To get the outputs as bytes, too, put `"parameters":{{"binary_data_output":true}}` beside `inputs`:
the answer then has the same layout as the request. The embedded Triton 2.51 repeats keys in the
`parameters` of an ensemble's answer, which some JSON parsers have to be told to accept.

Texts need no bytes:

<!-- example: curl-text -->
```sh
{_CURL_TEXT.strip()}
```

### grpcurl

`protobuf/` is the folder of that name in <https://github.com/triton-inference-server/common>. Bytes
travel in base64; the answer's tensors stand in `rawOutputContents`, little-endian. grpcurl suits
texts, not volumes. Run with grpcurl 1.8.6; where there is none, the test sends the message itself.

<!-- example: grpcurl -->
```sh
{_GRPCURL.strip()}
```

For other languages, generate a client from the same `.proto` files, and raise its limits on the
size of messages: those of most gRPC libraries are below that of a scan.
"""


if __name__ == "__main__":
    sys.exit(main())
