"""The single source of every name, shape and data type that crosses the wire.

Configs, graphs, the client and the tests all read this module; nothing else spells a tensor name.
Importing it needs neither numpy nor a server.

Axes of volumes are (z towards S, x towards L, y towards P) everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = 1
"""Version of what crosses the wire. It rises only for what an older client would read wrongly in
models, tensors or PROVENANCE, since clients refuse every other version. Additions do not raise it,
nor do commands and flags, which are versioned with the package."""

Dim = int | str
"""A fixed size, a size known at export (a key of `Dimensions`), or a free axis (any other name)."""


@dataclass(frozen=True)
class Tensor:
    """One named tensor: Triton data type (`INT16`, `FP32`, `BYTES`, …), axes outermost first."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Axes as a config states them: known sizes filled in from `sizes`, free axes as -1."""
        return tuple(dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in self.dims)


@dataclass(frozen=True)
class Model:
    """One model of the repository.

    `max_batch_size` > 0: Triton adds a batch axis in front of `dims`; 0: `dims` state every axis.
    further_files: graphs beside the default one in `MODEL/VERSION`, which a config chooses by
    `default_model_filename`: the same tensors and values.
    """

    name: str
    backend: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int = 0
    further_files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One model inside an ensemble.

    A tensor keeps its name inside the ensemble unless `inputs` or `outputs` renames it
    (model's name -> ensemble's name).
    """

    model: Model
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ensemble:
    """Models wired together by tensor name; the public face of the repository."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Geometry:
    """The grid that the vision model sees.

    volume_shape: voxels (z, x, y). target_spacing_mm: millimetres (z, x, y).
    """

    volume_shape: tuple[int, int, int] = (240, 480, 480)
    target_spacing_mm: tuple[float, float, float] = (1.5, 0.75, 0.75)

    def in_words(self) -> str:
        """`240x480x480 at 1.5,0.75,0.75 mm`, as the options of `ctclip export` state it."""
        shape = "x".join(map(str, self.volume_shape))
        return f"{shape} at {','.join(f'{edge:g}' for edge in self.target_spacing_mm)} mm"


PUBLISHED_GEOMETRY = Geometry()


@dataclass(frozen=True)
class Finding:
    """One entry of a prompt bank: a name and the sentences for and against it."""

    finding: str
    present: str
    absent: str


def prompts_for(finding: str) -> Finding:
    """The pair of sentences that CT-CLIP's zero-shot evaluation uses (upstream `zero_shot.py`)."""
    return Finding(finding, f"{finding} is present.", f"{finding} is not present.")


PUBLISHED_FINDINGS: tuple[Finding, ...] = tuple(
    prompts_for(name)
    for name in (
        "Medical material",
        "Arterial wall calcification",
        "Cardiomegaly",
        "Pericardial effusion",
        "Coronary artery wall calcification",
        "Hiatal hernia",
        "Lymphadenopathy",
        "Emphysema",
        "Atelectasis",
        "Lung nodule",
        "Lung opacity",
        "Pulmonary fibrotic sequela",
        "Pleural effusion",
        "Mosaic attenuation pattern",
        "Peribronchial thickening",
        "Consolidation",
        "Bronchiectasis",
        "Interlobular septal thickening",
    )
)
"""The 18 findings of CT-RATE, in upstream's order, with upstream's prompts."""


@dataclass(frozen=True)
class Dimensions:
    """Sizes fixed by one export: voxels D×H×W, tokens T×H'×W', embedding width E, findings F,
    classes of the trained head C."""

    volume_shape: tuple[int, int, int]
    token_shape: tuple[int, int, int]
    embedding_size: int
    finding_count: int
    class_count: int

    def sizes(self) -> dict[str, int]:
        """Values of the symbolic axes used by the tensors below."""
        depth, height, width = self.volume_shape
        slabs, rows, columns = self.token_shape
        return {
            "D": depth, "H": height, "W": width,
            "T": slabs, "H'": rows, "W'": columns,
            "E": self.embedding_size, "F": self.finding_count, "2F": 2 * self.finding_count,
            "C": self.class_count,
        }  # fmt: skip


CLASS_COUNT = len(PUBLISHED_FINDINGS)
"""Outputs of a ClassFine head: always CT-RATE's 18, in upstream's order, whatever the prompts.
Other heads have as many as PROVENANCE names `classes`."""

PUBLISHED_DIMENSIONS = Dimensions(
    (240, 480, 480), (24, 24, 24), 512, len(PUBLISHED_FINDINGS), CLASS_COUNT
)

# --- limits on metadata ------------------------------------------------------------------------
SPACING_MM_RANGE = (0.05, 20.0)
"""Exclusive bounds of a voxel's edge in mm; outside them a header is damaged or in another unit."""
MAX_TOKENS = 512
"""Tokens of one text, special tokens included; longer texts are cut (BERT's positions)."""

# --- tensors -----------------------------------------------------------------------------------
VOLUME = Tensor("VOLUME", "INT16", ("z", "x", "y"))
SPACING = Tensor("SPACING", "FP64", (3,))
RESCALE = Tensor("RESCALE", "FP32", (2,))
PROVENANCE = Tensor("PROVENANCE", "BYTES", (1,))
PROMPTS = Tensor("PROMPTS", "BYTES", ("2P",))
TEXT = Tensor("TEXT", "BYTES", ("N",))
VOXELS = Tensor("VOXELS", "FP32", (1, "D", "H", "W"))
CODES = Tensor("CODES", "INT32", ("T", "H'", "W'"))
IMAGE_NORM = Tensor("IMAGE_NORM", "FP32", (1,))
IMAGE_EMBEDDING = Tensor("IMAGE_EMBEDDING", "FP32", ("E",))
TEXT_EMBEDDING = Tensor("TEXT_EMBEDDING", "FP32", ("E",))
INPUT_IDS = Tensor("INPUT_IDS", "INT64", ("L",))
ATTENTION_MASK = Tensor("ATTENTION_MASK", "INT64", ("L",))


def _stacked(tensor: Tensor, *leading: Dim) -> Tensor:
    return Tensor(tensor.name, tensor.dtype, (*leading, *tensor.dims))


def _logits(*dims: Dim) -> Tensor:
    return Tensor("LOGITS", "FP32", (*dims, 2))


def _probabilities(*dims: Dim) -> Tensor:
    return Tensor("PROBABILITIES", "FP32", dims)


# --- models ------------------------------------------------------------------------------------
CHECK = Model("ctclip_check", "python", (SPACING, RESCALE), (SPACING, RESCALE, PROVENANCE))
GPU_GRAPH = "model_gpu.onnx"
"""`ctclip_preprocess/VERSION/model_gpu.onnx`: the form for GPUs, which the configs `gpu` and
`tensorrt` choose."""
PREPROCESS = Model(
    "ctclip_preprocess",
    "onnxruntime",
    (VOLUME, SPACING, RESCALE),
    (_stacked(VOXELS, 1),),
    further_files=(GPU_GRAPH,),
)
VISION = Model(
    "ctclip_vision",
    "onnxruntime",
    (VOXELS,),
    (IMAGE_EMBEDDING, IMAGE_NORM, CODES),
    max_batch_size=4,
)
TOKENIZER = Model(
    "ctclip_tokenizer", "python", (TEXT,), (_stacked(INPUT_IDS, "N"), _stacked(ATTENTION_MASK, "N"))
)
TEXT_ENCODER = Model(
    "ctclip_text",
    "onnxruntime",
    (INPUT_IDS, ATTENTION_MASK),
    (TEXT_EMBEDDING,),
    max_batch_size=64,
)
PAIRS_AT_ONCE = TEXT_ENCODER.max_batch_size // 2
"""Pairs of prompts that one request of `ctclip_zero_shot` takes."""
GATE = Model("ctclip_gate", "python", (SPACING, _stacked(TEXT_EMBEDDING, "2P")), (SPACING,))
SCORE = Model(
    "ctclip_score",
    "onnxruntime",
    (_stacked(IMAGE_EMBEDDING, "V"), _stacked(TEXT_EMBEDDING, "2P")),
    (_logits("V", "P"), _probabilities("V", "P")),
)
FINDINGS = Model(
    "ctclip_findings",
    "onnxruntime",
    (_stacked(IMAGE_EMBEDDING, "V"),),
    (_logits("V", "F"), _probabilities("V", "F")),
)

RELEVANCE = Model(
    "ctclip_relevance",
    "onnxruntime",
    (_stacked(CODES, "V"), _stacked(IMAGE_NORM, "V")),
    (Tensor("RELEVANCE", "FP32", ("V", "F", "T", "H'", "W'")),),
)
CLASSFINE = Model(
    "ctclip_classfine",
    "onnxruntime",
    (_stacked(IMAGE_EMBEDDING, "V"),),
    (_probabilities("V", "C"),),
)

# --- ensembles ---------------------------------------------------------------------------------
_SCAN = (VOLUME, SPACING, RESCALE)
_IMAGE = _stacked(IMAGE_EMBEDDING, 1)
# ctclip_check hands the metadata on, so nothing that computes with it ever sees what it refused.
_CHECKED = {"SPACING": "CHECKED_SPACING", "RESCALE": "CHECKED_RESCALE"}
_ENCODE_IMAGE = (
    Step(CHECK, outputs=_CHECKED),
    Step(PREPROCESS, inputs=_CHECKED),
    Step(VISION),
)

PATHOLOGIES = Ensemble(
    "ctclip_pathologies",
    _SCAN,
    (_logits(1, "F"), _probabilities(1, "F"), _IMAGE, PROVENANCE),
    (*_ENCODE_IMAGE, Step(FINDINGS)),
)
# One step after another: see ctclip_gate. The texts come first, whose refusals are the more likely
# and whose encoding costs the least.
ZERO_SHOT = Ensemble(
    "ctclip_zero_shot",
    (*_SCAN, PROMPTS),
    (_logits(1, "P"), _probabilities(1, "P"), _IMAGE, PROVENANCE),
    (
        Step(TOKENIZER, inputs={"TEXT": "PROMPTS"}),
        Step(TEXT_ENCODER),
        Step(GATE, outputs={"SPACING": "GATED_SPACING"}),
        Step(CHECK, inputs={"SPACING": "GATED_SPACING"}, outputs=_CHECKED),
        *_ENCODE_IMAGE[1:],
        Step(SCORE),
    ),
)
IMAGE_EMBEDDING_ENSEMBLE = Ensemble(
    "ctclip_image_embedding", _SCAN, (_IMAGE, PROVENANCE), _ENCODE_IMAGE
)
TEXT_EMBEDDING_ENSEMBLE = Ensemble(
    "ctclip_text_embedding",
    (TEXT,),
    (_stacked(TEXT_EMBEDDING, "N"),),
    (Step(TOKENIZER), Step(TEXT_ENCODER)),
)

EXPLAIN = Ensemble(
    "ctclip_explain",
    _SCAN,
    (
        *PATHOLOGIES.outputs,
        Tensor("RELEVANCE", "FP32", (1, "F", "T", "H'", "W'")),
    ),
    (*PATHOLOGIES.steps, Step(RELEVANCE)),
)
CLASSIFY = Ensemble(
    "ctclip_classify",
    _SCAN,
    (_probabilities(1, "C"), _IMAGE, PROVENANCE),
    (*_ENCODE_IMAGE, Step(CLASSFINE)),
)

MODELS: tuple[Model, ...] = (
    CHECK, PREPROCESS, VISION, TOKENIZER, TEXT_ENCODER, GATE, SCORE, FINDINGS, RELEVANCE,
)  # fmt: skip
PYTHON_MODELS = tuple(model for model in MODELS if model.backend == "python")
ENSEMBLES: tuple[Ensemble, ...] = (
    PATHOLOGIES, ZERO_SHOT, IMAGE_EMBEDDING_ENSEMBLE, TEXT_EMBEDDING_ENSEMBLE, EXPLAIN,
)  # fmt: skip
CLASSFINE_MODELS: tuple[Model, ...] = (CLASSFINE,)
CLASSFINE_ENSEMBLES: tuple[Ensemble, ...] = (CLASSIFY,)
"""In a repository only if its export had a trained head: ClassFine's, or a linear one."""
