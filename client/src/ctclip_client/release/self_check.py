"""The self-check of a release: one small volume, its prompts, and what the reference answers.

A parity verdict holds for the machine that made it; other CPUs and GPUs round differently, and some
overflow. So every release carries a question with its answer, and whoever serves it compares first:
`ctclip serve`, `ctclip promote`, the container's health check, `ctclip doctor`.

Imports the standard library and NumPy only: the container image takes this file as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

MODEL = "ctclip_check"
FILE = "self_check.npz"
"""Lies in the version folder of `MODEL`."""
FORMAT = 1
_LARGEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Tolerance:
    """How far answers may be from the reference's.

    cosine: the least of the image embedding. probability, logit: the largest |difference|.
    """

    cosine: float
    probability: float
    logit: float


@dataclass(frozen=True, eq=False)
class SelfCheck:
    """A question and the reference's answer.

    release: the name that PROVENANCE has to give. precision: of the release.
    volume (z, x, y) int16, spacing (3,) float64 mm, rescale (2,) float32: as `ctclip_zero_shot`
        takes them. prompts: 2P sentences: present, absent, present, absent, ….
    image_embedding (1, E), logits (1, P, 2): float32, by the PyTorch model in float32.
    tolerances: by precision; see `precision_in_force`.
    """

    release: str
    precision: str
    volume: NDArray[np.int16]
    spacing: NDArray[np.float64]
    rescale: NDArray[np.float32]
    prompts: tuple[str, ...]
    image_embedding: NDArray[np.float32]
    logits: NDArray[np.float32]
    tolerances: Mapping[str, Tolerance]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """The reference's (1, P): softmax of each pair of logits, of "present"."""
        present, absent = np.moveaxis(self.logits.astype(np.float64), -1, 0)
        probabilities: NDArray[np.float32] = (1 / (1 + np.exp(absent - present))).astype(np.float32)
        return probabilities

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Return the inputs of `ctclip_zero_shot`, by name; PROMPTS as UTF-8 bytes."""
        return {
            "VOLUME": self.volume,
            "SPACING": self.spacing,
            "RESCALE": self.rescale,
            "PROMPTS": np.array([text.encode() for text in self.prompts], np.object_),
        }

    def judge(self, answer: Mapping[str, NDArray[Any]], precision: str) -> Comparison:
        """Compare an answer, whose PROVENANCE [1] has to name this release."""
        try:
            release = json.loads(answer["PROVENANCE"].item(0))["release"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            return _broken(f"PROVENANCE names no release ({error!r})")
        if release != self.release:
            return _broken(f"release {release} answers, the self-check is of {self.release}")
        return self.compare(answer, precision)

    def compare(self, answer: Mapping[str, NDArray[Any]], precision: str) -> Comparison:
        """Hold an answer of `ctclip_zero_shot` against the reference's.

        answer: IMAGE_EMBEDDING (1, E), LOGITS (1, P, 2), PROBABILITIES (1, P).
        precision: the one in force, see `precision_in_force`.
        """
        allowed = self.tolerances[precision]
        expected = {
            "IMAGE_EMBEDDING": self.image_embedding,
            "LOGITS": self.logits,
            "PROBABILITIES": self.probabilities,
        }
        got: dict[str, NDArray[np.float64]] = {}
        for name, reference in expected.items():
            array = answer.get(name)
            if array is None or array.shape != reference.shape:
                shape = "nothing" if array is None else list(array.shape)
                return _broken(f"{name} is {shape}, expected {list(reference.shape)}")
            got[name] = array.astype(np.float64)
            if not np.isfinite(got[name]).all():
                return _broken(f"{name} holds NaN or infinite values")
        # Of two vectors of length 1 this is their cosine; of another length it is worse.
        apart = got["IMAGE_EMBEDDING"] - self.image_embedding.astype(np.float64)
        cosine = 1 - float((apart**2).sum()) / 2
        logit = float(np.abs(got["LOGITS"] - self.logits).max())
        probability = float(np.abs(got["PROBABILITIES"] - self.probabilities).max())
        problems = []
        if not cosine >= allowed.cosine:
            problems.append(f"cosine of the embedding {cosine:.6f}, expected {allowed.cosine:g}")
        if not logit <= allowed.logit:
            problems.append(f"|Δlogit| {logit:.1e}, allowed {allowed.logit:.1e}")
        if not probability <= allowed.probability:
            problems.append(f"|Δprobability| {probability:.1e}, allowed {allowed.probability:g}")
        return Comparison(tuple(problems), cosine, logit, probability)

    def write(self, file: BinaryIO) -> None:
        """Write the npz; the same content gives the same bytes."""
        about = {
            "format": FORMAT,
            "release": self.release,
            "precision": self.precision,
            "tolerances": {name: asdict(each) for name, each in self.tolerances.items()},
        }
        np.savez_compressed(
            file,
            ABOUT=np.array(json.dumps(about, sort_keys=True)),
            VOLUME=self.volume,
            SPACING=self.spacing,
            RESCALE=self.rescale,
            PROMPTS=np.array(self.prompts),
            IMAGE_EMBEDDING=self.image_embedding,
            LOGITS=self.logits,
        )


@dataclass(frozen=True)
class Comparison:
    """problems: what is out of bounds, in words; none is a pass. NaN where nothing was measured."""

    problems: tuple[str, ...]
    cosine: float = np.nan
    logit: float = np.nan
    probability: float = np.nan

    def __str__(self) -> str:
        return (
            f"cosine of the embedding {self.cosine:.6f}, |Δlogit| {self.logit:.1e}, "
            f"|Δprobability| {self.probability:.1e}"
        )


def _broken(problem: str) -> Comparison:
    return Comparison((problem,))


def precision_in_force(release: str, backend: str, hint_bf16: str) -> str:
    """The precision whose bounds hold, for a release of a precision in a backend.

    OpenVINO told HINT_BF16=YES (`--config-name openvino-bf16`) computes in bf16 what the graph
    states in float32; everything else computes what the graph states. int8's bounds are the wider
    ones already.
    """
    lowered = backend == "openvino" and hint_bf16.lower() == "yes"
    return "bf16" if lowered and release in ("fp32", "fp16") else release


def precision_of_config(release: str, config: Any) -> str:
    """The same, for the vision model's config as Triton's ModelConfig message."""
    hint = config.parameters["HINT_BF16"].string_value if "HINT_BF16" in config.parameters else ""
    return precision_in_force(release, config.backend, hint)


def read_self_check(path: Path) -> SelfCheck:
    """Read a `self_check.npz`; nothing in it is executed.

    Raises:
        FileNotFoundError: there is none, as in repositories of older versions.
        ValueError: it is damaged, or of a version that this one does not know.
    """
    try:
        path.lstat()  # a link that leads nowhere is not nothing
        return _read(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive may raise nearly anything
        raise ValueError(
            f"{path.name}: no self-check that can be read ({type(error).__name__}: {error})"
        ) from error


def _read(path: Path) -> SelfCheck:
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError("no regular file")
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError(f"{path.stat().st_size:,} bytes")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if sum(entry.file_size for entry in arrays.zip.infolist()) > _LARGEST_BYTES:
            raise ValueError("it unpacks to too much")
        about = json.loads(str(arrays["ABOUT"]))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, expected {FORMAT}")
        check = SelfCheck(
            release=str(about["release"]),
            precision=str(about["precision"]),
            volume=_array(arrays, "VOLUME", np.int16, 3),
            spacing=_array(arrays, "SPACING", np.float64, 1),
            rescale=_array(arrays, "RESCALE", np.float32, 1),
            prompts=tuple(map(str, arrays["PROMPTS"])),
            image_embedding=_array(arrays, "IMAGE_EMBEDDING", np.float32, 2),
            logits=_array(arrays, "LOGITS", np.float32, 3),
            tolerances={
                name: Tolerance(**{key: float(value) for key, value in each.items()})
                for name, each in about["tolerances"].items()
            },
        )
    if missing := {check.precision, "bf16"} - set(check.tolerances):
        raise ValueError(f"no bounds for {', '.join(sorted(missing))}")
    check.inputs()  # texts that have no UTF-8 form
    if check.logits.shape != (1, len(check.prompts) // 2, 2) or not check.prompts:
        raise ValueError(f"{len(check.prompts)} prompts, {list(check.logits.shape)} logits")
    return check


def _array(arrays: Any, name: str, dtype: type, axes: int) -> NDArray[Any]:
    array: NDArray[Any] = arrays[name]
    if array.dtype != dtype or array.ndim != axes or not array.size:
        raise ValueError(f"{name}: {array.dtype} {list(array.shape)}")
    return array
