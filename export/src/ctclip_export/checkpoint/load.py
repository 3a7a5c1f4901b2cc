"""From a stranger's file to the reference model, or to a refusal that says what the file is."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ctclip_client.contract import Geometry
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.digest import sha256
from ctclip_export.checkpoint.classfine import build_classifier, split_classifier
from ctclip_export.checkpoint.names import VISION, Slot, slots, vision_config
from ctclip_export.model import CTCLIP, Classifier, ModelConfig, VisionConfig
from ctclip_export.text.text_model import TextModel

V2_FILES = "CT-CLIP_v2.pt, CT_VocabFine_v2.pt or CT_LiPro_v2.pt"
POSITION_IDS = "text_transformer.embeddings.position_ids"
"""Old transformers versions stored this range of integers: the one tensor that may come or go."""

_V1_TOKEN_COUNT_MARKER = 2_097_152
_LISTED = 8
_OLD_FORMAT = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
"""What files of torch.save began with before they were zip archives (torch.serialization)."""
_LARGEST_TEMPERATURE = 88.0
"""exp() of more leaves float32."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and where it came from.

    `variant` is "v2" (VocabFine files have the same names and shapes) or "classfine".
    `classifier`: the ClassFine head, where there is one; `classfine_sha256`: the file it came from,
    if that is another one. `random_weights`: a file beside it declares that nothing was ever
    trained.
    """

    model: CTCLIP
    classifier: Classifier | None
    variant: str
    path: Path
    sha256: str
    classfine_sha256: str | None
    random_weights: bool
    dropped: tuple[str, ...]


def load_checkpoint(
    path: Path, text_model: TextModel, geometry: Geometry, classfine: Path | None = None
) -> Checkpoint:
    """Load a CT-CLIP v2, VocabFine or ClassFine checkpoint.

    `classfine`: a ClassFine file whose head is to be served beside `path`. The head was trained on
    the embeddings of its own vision encoder, so both files must have the same one.

    The weights stay memory-mapped: they are read when first used. float16 and bfloat16 tensors are
    widened to float32, which is exact.

    Raises: Unreadable for a file that is no checkpoint, InvalidInput for one of another model.
    """
    state, classifier = split_classifier(_strip_module(_read_state(path)))
    _refuse_v1(state)
    config = ModelConfig(vision_config(state, geometry.volume_shape), text_model.config)
    _check_geometry(state, config.vision)
    expected = slots(config)
    _check_names(state, expected)
    weights = _checked_weights(state, expected)
    with torch.device("meta"):
        model = CTCLIP(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.vision.fold_constants()
    model.requires_grad_(False).eval()
    head = None
    if classifier:
        head = build_classifier(classifier, config.vision.embedding_size)
    elif classfine is not None:
        head = _head_beside(classfine, state, config.vision.embedding_size)
    return Checkpoint(
        model=model,
        classifier=head,
        variant="classfine" if classifier else "v2",
        path=path,
        sha256=sha256(path),
        classfine_sha256=None if classfine is None else sha256(classfine),
        random_weights=declared_random(path).is_file(),
        dropped=tuple(name for name, slot in expected.items() if slot.ours is None),
    )


def declared_random(path: Path) -> Path:
    """The file that stands beside a checkpoint of random weights, so that every result says so.

    The checkpoint itself must be exactly of upstream's layout and has no room for it.
    """
    return path.with_name(path.name + ".RANDOM_WEIGHTS")


def _read_state(path: Path) -> dict[str, Tensor]:
    remedy = f"--checkpoint takes a file saved by torch.save, such as {V2_FILES}."
    if not path.is_file():
        raise Unreadable(
            f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}.", remedy
        )
    _check_archive(path, remedy)
    try:
        with warnings.catch_warnings():  # torch's advice on odd pickles is not for our user
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise Unreadable(
            f"{path}: wants to run code while it is read ({_wanted(error)}); a checkpoint needs "
            "tensors only.",
            "Do not load it by other means unless you trust its source. " + remedy,
        ) from error
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        LookupError,
        OverflowError,
        MemoryError,
        struct.error,
        TypeError,
        AttributeError,
    ) as error:  # torch's unpickler trusts the stream to be well formed
        # Its first sentence says what is wrong; later ones advise to load it without protection.
        reason = re.split(r"\.? *\n|\.\s", str(error))[0] or type(error).__name__
        raise Unreadable(
            f"{path}: damaged or not a PyTorch checkpoint ({reason}).",
            "Download it again and compare its size with the source's.",
        ) from error
    if not isinstance(content, dict) or not content:
        raise Unreadable(
            f"{path}: holds a {type(content).__name__}, expected a dictionary of tensors.", remedy
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InvalidInput(
                f"{path}: entry {name!r} is a {type(value).__name__}, expected a tensor.",
                "Save the state dict alone: torch.save(checkpoint['state_dict'], FILE).",
            )
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise InvalidInput(
                f"{path}: tensor '{name}' is {value.layout} on device '{value.device}', expected a "
                "plain tensor with its values in the file.",
                f"Take an original {V2_FILES}.",
            )
    return content


def _check_archive(path: Path, remedy: str) -> None:
    """Refuse what is no zip archive, which is how torch.save writes since 2020."""
    try:
        if zipfile.is_zipfile(path):
            return
        with path.open("rb") as file:
            start = file.read(len(_OLD_FORMAT))
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}.", remedy) from error
    except zipfile.BadZipFile as error:
        raise Unreadable(
            f"{path}: damaged ({error}).",
            "Download it again and compare its size with the source's.",
        ) from error
    if start.startswith(b"PK\x03\x04"):
        raise Unreadable(
            f"{path}: the file is cut off: its directory, which stands at the end, is missing.",
            "Download it again and compare its size with the source's.",
        )
    if start == _OLD_FORMAT:
        raise Unreadable(
            f"{path}: saved in the format of PyTorch before 1.6, which cannot be memory-mapped.",
            "Save it again: torch.save(torch.load(OLD, weights_only=True), NEW).",
        )
    raise Unreadable(f"{path}: not a PyTorch checkpoint.", remedy)


def _wanted(error: pickle.UnpicklingError) -> str:
    """The name of what the pickle asked for, out of torch's long explanation."""
    match = re.search(r"GLOBAL (\S+)", str(error))
    return match.group(1) if match else "an object other than a tensor"


def _strip_module(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as saved without DataParallel or DDP."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _head_beside(classfine: Path, state: Mapping[str, Tensor], embedding_size: int) -> Classifier:
    trained, classifier = split_classifier(_strip_module(_read_state(classfine)))
    if not classifier:
        raise InvalidInput(
            f"--classfine: {classfine} has no classifier: it is not a ClassFine (CT-LiPro) file.",
            "Take CT_LiPro_v2.pt, or leave --classfine out.",
        )
    for name, tensor in state.items():
        if not name.startswith((VISION, "to_visual_latent.")):
            continue
        if name not in trained or not torch.equal(trained[name].float(), tensor.float()):
            raise InvalidInput(
                f"--classfine: its vision encoder is not the checkpoint's ('{name}' differs), so "
                "its classifier would judge embeddings that it was not trained on.",
                "Export it alone, into a repository of its own: --checkpoint CT_LiPro_v2.pt.",
            )
    return build_classifier(classifier, embedding_size)


def _refuse_v1(state: Mapping[str, Tensor]) -> None:
    latent = state.get("to_visual_latent.weight")
    if latent is not None and latent.ndim == 2 and latent.shape[1] == _V1_TOKEN_COUNT_MARKER:
        raise InvalidInput(
            "checkpoint: CT-CLIP v1 (image projection of 2,097,152 inputs), a different network.",
            f"Take a v2 file instead: {V2_FILES}.",
        )


def _check_geometry(state: Mapping[str, Tensor], vision: VisionConfig) -> None:
    for axis, size, patch in zip("zxy", vision.volume_shape, vision.patch_shape, strict=True):
        if size < patch or size % patch:
            raise InvalidInput(
                f"--volume-shape: {size} voxels along {axis} are not a multiple of the "
                f"checkpoint's patch of {patch}.",
                "The published model takes 240x480x480.",
            )
    _, rows, columns = vision.token_shape
    inputs = state["to_visual_latent.weight"].shape[1]
    if inputs != rows * columns * vision.width:
        raise InvalidInput(
            f"--volume-shape: {'x'.join(map(str, vision.volume_shape))} makes {rows} × {columns} "
            f"tokens a slab, but the checkpoint's image projection was trained for "
            f"{inputs / vision.width:g} (to_visual_latent.weight has {inputs:,} inputs of width "
            f"{vision.width}).",
            "Give the volume shape that the checkpoint was trained with; published files: "
            "240x480x480.",
        )


def _check_names(state: Mapping[str, Tensor], expected: Mapping[str, Slot]) -> None:
    problems = [
        *(f"missing: {name} {slot.shape}" for name, slot in expected.items() if name not in state),
        *(
            f"unexpected: {name} {tuple(tensor.shape)}"
            for name, tensor in state.items()
            if name not in expected and name != POSITION_IDS
        ),
        *(
            f"shape: {name} is {tuple(state[name].shape)}, expected {slot.shape}"
            for name, slot in expected.items()
            if name in state and tuple(state[name].shape) != slot.shape
        ),
    ]
    if problems:
        more = len(problems) - _LISTED
        listed = "; ".join(problems[:_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise InvalidInput(
            f"checkpoint: {len(problems)} of its tensors do not fit a CT-CLIP v2 model with this "
            f"text model: {listed}.",
            f"Take an original {V2_FILES}, and the text model's folder that belongs to it.",
        )


def _checked_weights(
    state: Mapping[str, Tensor], expected: Mapping[str, Slot]
) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, slot in expected.items():
        if slot.ours is None:
            continue
        tensor = _float32(name, state[name])
        weights[slot.ours] = tensor[0] if slot.ours == "vision.codebook" else tensor
    temperature = float(weights["temperature"])
    if temperature > _LARGEST_TEMPERATURE:
        raise InvalidInput(
            f"checkpoint: 'temperature' is {temperature:g}, expected the logarithm of a logit "
            f"scale, at most {_LARGEST_TEMPERATURE:g}: logits would be infinite.",
            "The training run that wrote it had diverged, or the file is damaged.",
        )
    return weights


def _float32(name: str, tensor: Tensor) -> Tensor:
    """The tensor in float32, known to be finite; not a copy where it is float32 already."""
    if not tensor.is_floating_point():
        raise InvalidInput(
            f"checkpoint: tensor '{name}' is {tensor.dtype}, expected a floating-point type.",
            f"Take an original {V2_FILES}.",
        )
    # Checked afterwards: what float64 holds need not fit.
    wide = tensor.to(torch.float32)
    finite = torch.isfinite(wide)
    if not finite.all():
        raise InvalidInput(
            f"checkpoint: tensor '{name}' holds {int((~finite).sum())} values that are NaN or "
            "infinite.",
            "The training run that wrote it had diverged, or the file is damaged.",
        )
    return wide
