"""From an untrusted file to the reference model: read, check, build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ctclip_client.contract import PUBLISHED_FINDINGS, Geometry
from ctclip_client.errors import InvalidInput
from ctclip_client.release.digest import sha256
from ctclip_export.checkpoint.checks import check_variant, refuse_failed, tensor_checks
from ctclip_export.checkpoint.classfine import build_classifier, head_beside
from ctclip_export.checkpoint.file import declared_random, read_contents
from ctclip_export.checkpoint.linear_head import HeadFile, check_trained_on, linear_classifier
from ctclip_export.checkpoint.names import slots, vision_config
from ctclip_export.checkpoint.unwrap import TRAINED, Contents
from ctclip_export.model import CTCLIP, Classifier, ModelConfig
from ctclip_export.text.text_model import TextModel

CLASSFINE_CLASSES = tuple(entry.finding for entry in PUBLISHED_FINDINGS)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and where it came from.

    `variant` is "v2" (VocabFine files have the same names and shapes) or "classfine".
    `classifier`: the trained head, where there is one, and the names of its `classes`;
    `classfine_sha256`: the ClassFine file it came from, if that is another one; `head`: the file
    of `ctclip fit-head` that it came from. `random_weights`: a file beside it declares that nothing
    was ever trained, for either of them. `unwrapped`: for each of them that holds more than the
    model, what was taken and what was not.
    """

    model: CTCLIP
    classifier: Classifier | None
    variant: str
    path: Path
    sha256: str
    classfine_sha256: str | None
    random_weights: bool
    unwrapped: tuple[str, ...]
    head: HeadFile | None = None
    classes: tuple[str, ...] = CLASSFINE_CLASSES


def load_checkpoint(
    path: Path,
    text_model: TextModel,
    geometry: Geometry,
    classfine: Path | None = None,
    head: HeadFile | None = None,
) -> Checkpoint:
    """Load a CT-CLIP v2, VocabFine or ClassFine checkpoint, wrapped as `unwrap` can undo it.

    `classfine`: a ClassFine file whose head is to be served beside `path`. The head was trained on
    the embeddings of its own vision encoder, so both files must have the same one. `head`: a linear
    head to be served instead, trained on the embeddings of this very file.

    The weights stay memory-mapped: they are read when first used. float16 and bfloat16 tensors are
    widened to float32, which is exact.

    Raises: Unreadable for a file that is no checkpoint, InvalidInput for one of another model.
    """
    contents = read_contents(path)
    asked = "--head" if head is not None else "--classfine" if classfine is not None else ""
    if contents.classifier and asked:
        raise InvalidInput(
            f"{asked}: {path} is a ClassFine checkpoint, whose own classifier is served.",
            f"Leave {asked} out.",
        )
    variant = check_variant(contents)
    refuse_failed([variant])
    unwrapped = [f"{path}: {variant.detail}"] if _is_wrapped(contents) else []
    config = ModelConfig(vision_config(contents.state, geometry.volume_shape), text_model.config)
    refuse_failed(tensor_checks(contents, config, geometry))
    digest, size = sha256(path), config.vision.embedding_size
    classifier = None
    if contents.classifier:
        classifier = build_classifier(contents.classifier, size)
    elif head is not None:
        check_trained_on(head, path, digest, geometry)
        classifier = linear_classifier(head, size)
    elif classfine is not None:
        other = read_contents(classfine)
        classifier = head_beside(classfine, other, contents.state, size)
        if _is_wrapped(other):
            unwrapped.append(f"{classfine}: {check_variant(other).detail}")
    return Checkpoint(
        model=_build(contents, config),
        classifier=classifier,
        variant="classfine" if contents.classifier else "v2",
        path=path,
        sha256=digest,
        classfine_sha256=None if classfine is None else sha256(classfine),
        random_weights=any(declared_random(p).is_file() for p in (path, classfine) if p)
        or (head is not None and head.head.trained_on.random_weights),
        unwrapped=tuple(unwrapped),
        head=head,
        classes=CLASSFINE_CLASSES if head is None else head.head.classes,
    )


def _is_wrapped(contents: Contents) -> bool:
    return bool(contents.entry or contents.beside or contents.prefix not in ("", TRAINED))


def _build(contents: Contents, config: ModelConfig) -> CTCLIP:
    weights = {
        slot.ours: contents.state[name].float().contiguous()  # no copy where it is so already
        for name, slot in slots(config).items()
        if slot.ours is not None
    }
    weights["vision.codebook"] = weights["vision.codebook"][0]
    with torch.device("meta"):
        model = CTCLIP(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.vision.fold_constants()
    return model.requires_grad_(False).eval()
