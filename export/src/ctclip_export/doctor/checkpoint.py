"""A checkpoint: what it is, what is in it, and whether `ctclip export` would take it.

Without the text model's folder everything is told that the tensors' shapes can tell; that leaves
the vocabulary and BERT's number of heads.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctclip_client.contract import PUBLISHED_GEOMETRY
from ctclip_client.doctor.inspectors import Options
from ctclip_client.doctor.report import Check, Verdict, failed, not_run, passed, warned
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.release.digest import sha256
from ctclip_export.checkpoint import load as loading
from ctclip_export.checkpoint import load_checkpoint, read_text_model
from ctclip_export.checkpoint.classfine import build_classifier, split_classifier
from ctclip_export.checkpoint.load import POSITION_IDS, V2_FILES, declared_random
from ctclip_export.checkpoint.names import TEXT, VISION, Slot, slots, vision_config
from ctclip_export.model import ModelConfig, TextConfig, VisionConfig

_ORIGINAL = f"Take an original {V2_FILES}."
_LISTED = 8
_AFTER_READ = (
    "variant", "random weights", "sizes", "tensors", "parameters", "dropped", "finite",
    "geometry", "text model", "export",
)  # fmt: skip
_PARTS = (
    ("vision encoder", VISION),
    ("image projection", "to_visual_latent."),
    ("text encoder", TEXT),
    ("text projection", "to_text_latent."),
    ("temperature", "temperature"),
)
_REASONS = (
    ("latent_extra", "second projections, used in training only"),
    ("to_pixels", "decoder of the image"),
    ("to_patch_emb_first_frame", "patches of a first frame, which CT has none of"),
    ("vq._codebook", "state of the codebook's training"),
    ("pooler", "BERT's pooler; the [CLS] state is used as it is"),
    ("null_kv", "stored by upstream, never used"),
    ("context_norm", "stored by upstream, never used"),
)


def inspect(path: Path, options: Options) -> Iterator[Check]:
    """Examine a checkpoint. Nothing in the file is executed."""
    with options.stages.stage("Hash the file"):
        digest = sha256(path)
    yield passed("file", f"{path.stat().st_size:,} bytes, SHA-256 {digest[:16]}…",
                 bytes=path.stat().st_size, sha256=digest)  # fmt: skip
    try:
        stored = loading._read_state(path)
    except CTClipError as error:
        yield failed("read", error.cause, error.remedy)
        for name in _AFTER_READ:
            yield not_run(name, "The file could not be read.")
        return
    yield passed("read", f"{len(stored)} tensors and nothing that wants to run code",
                 tensors=len(stored))  # fmt: skip
    yield from _contents(path, stored, options)


def _contents(path: Path, stored: dict[str, Tensor], options: Options) -> Iterator[Check]:
    state, classifier = split_classifier(loading._strip_module(stored))
    wrapped = all(name.startswith("module.") for name in stored)
    variant = _variant(state, classifier, wrapped=wrapped)
    yield variant
    yield _random_weights(path)
    if variant.verdict is Verdict.FAIL:
        for name in _AFTER_READ[2:]:
            yield not_run(name, "It is no checkpoint that can be served.")
        return
    sizes = _sizes(state, options)
    yield sizes.check
    worst = [variant, sizes.check]
    if sizes.config is None:
        for name in ("tensors", "parameters", "dropped"):
            yield not_run(name, "The sizes are unknown.")
        expected: dict[str, Slot] = {}
    else:
        expected = slots(sizes.config)
        for check in (
            _tensors(state, expected, classifier, sizes.config),
            _parameters(state, expected, classifier),
            _dropped(state, expected),
        ):
            worst.append(check)
            yield check
    with options.stages.stage("Look for NaN"):
        finite = _finite({**state, **classifier}, expected)
    geometry = _geometry(state, sizes.config, options)
    text = _text_model(sizes.config, options)
    for check in (finite, geometry, text):
        worst.append(check)
        yield check
    yield _export(path, options, worst)


def _variant(
    state: Mapping[str, Tensor], classifier: Mapping[str, Tensor], *, wrapped: bool
) -> Check:
    try:
        loading._refuse_v1(state)
    except InvalidInput as error:
        return failed("variant", error.cause, error.remedy, variant="v1")
    if not any(name.startswith(VISION) for name in state):
        return failed("variant", f"not a CT-CLIP: no tensor is named {VISION}…", _ORIGINAL,
                      variant="unknown")  # fmt: skip
    behind = "; every name stands behind 'module.' (DataParallel), which is taken off"
    suffix = behind if wrapped else ""
    if classifier:
        return passed("variant", f"ClassFine (CT-LiPro): a CT-CLIP v2 and a classifier{suffix}",
                      variant="classfine", module_prefix=wrapped)  # fmt: skip
    return passed(
        "variant", f"CT-CLIP v2, or VocabFine v2, whose names and shapes are the same{suffix}",
        variant="v2", module_prefix=wrapped,
    )  # fmt: skip


def _random_weights(path: Path) -> Check:
    declared = declared_random(path)
    if declared.is_file():
        return warned(
            "random weights", f"RANDOM WEIGHTS: {declared.name} beside it says that it was never "
            "trained", "For demonstrations only; its results mean nothing.", random_weights=True,
        )  # fmt: skip
    return passed("random weights", "nothing beside it declares them", random_weights=False)


@dataclass(frozen=True)
class _Sizes:
    check: Check
    config: ModelConfig | None


def _sizes(state: Mapping[str, Tensor], options: Options) -> _Sizes:
    try:
        vision = vision_config(state, options.geometry.volume_shape)
        text = _text_config(state)
    except InvalidInput as error:
        return _Sizes(failed("sizes", error.cause, error.remedy), None)
    patch = " × ".join(map(str, vision.patch_shape))
    detail = (
        f"patches {patch}, width {vision.width}, {vision.spatial_layers} + "
        f"{vision.temporal_layers} layers, {vision.heads} heads, {vision.codebook_size:,} codes; "
        f"text: {text.layers} layers, width {text.width}, vocabulary {text.vocabulary_size:,}; "
        f"embeddings {vision.embedding_size}"
    )
    values: dict[str, Any] = {
        "vision": {k: v for k, v in asdict(vision).items() if k != "volume_shape"},
        # Neither stands in any shape; they come with --text-model.
        "text": {k: v for k, v in asdict(text).items() if k not in ("heads", "layer_norm_eps")},
    }
    if "temperature" in state and state["temperature"].numel() == 1:
        values["logit_scale"] = float(state["temperature"].float().exp())
    return _Sizes(passed("sizes", detail, **values), ModelConfig(vision, text))


def _text_config(state: Mapping[str, Tensor]) -> TextConfig:
    """BERT's sizes off its shapes. The number of heads, which no shape tells, is left at 1."""
    vocabulary_size, width = _matrix(state, "embeddings.word_embeddings.weight")
    positions, _ = _matrix(state, "embeddings.position_embeddings.weight")
    segment_types, _ = _matrix(state, "embeddings.token_type_embeddings.weight")
    hidden, _ = _matrix(state, "encoder.layer.0.intermediate.dense.weight")
    found = (re.match(rf"{re.escape(TEXT)}encoder\.layer\.(\d+)\.", name) for name in state)
    return TextConfig(
        vocabulary_size=vocabulary_size,
        width=width,
        layers=len({match.group(1) for match in found if match}),
        heads=1,
        hidden=hidden,
        positions=positions,
        segment_types=segment_types,
    )


def _matrix(state: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    tensor = state.get(TEXT + name)
    if tensor is None or tensor.ndim != 2 or 0 in tensor.shape:
        got = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
        raise InvalidInput(
            f"checkpoint: '{TEXT}{name}' is {got}, expected two non-empty axes.", _ORIGINAL
        )
    return tensor.shape[0], tensor.shape[1]


def _tensors(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Slot],
    classifier: Mapping[str, Tensor],
    config: ModelConfig,
) -> Check:
    """Names and shapes. Those of the image projection belong to the check of the geometry."""
    shaped = {name: slot for name, slot in expected.items() if "to_visual_latent" not in name}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected and name != POSITION_IDS]
    wrong = [
        f"{name} {list(state[name].shape)} instead of {list(slot.shape)}"
        for name, slot in shaped.items()
        if name in state and tuple(state[name].shape) != slot.shape
    ]
    integer = [
        name
        for name, slot in expected.items()
        if slot.ours is not None and name in state and not state[name].is_floating_point()
    ]
    problems = [
        f"{len(names)} {kind}: {_listed(names)}"
        for kind, names in (
            ("missing", missing), ("unexpected", unexpected), ("of another shape", wrong),
            ("not floating-point", integer),
        )
        if names
    ]  # fmt: skip
    if classifier:
        try:
            build_classifier(classifier, config.vision.embedding_size)
        except InvalidInput as error:
            problems.append(error.cause)
    dtypes: dict[str, int] = defaultdict(int)
    for tensor in state.values():
        dtypes[str(tensor.dtype).removeprefix("torch.")] += 1
    values: dict[str, Any] = {
        "tensors": len(state), "dtypes": dict(dtypes), "position_ids": POSITION_IDS in state,
        "missing": missing, "unexpected": unexpected, "wrong_shape": wrong,
    }  # fmt: skip
    if problems:
        return failed("tensors", "; ".join(problems), _ORIGINAL, **values)
    ids = "with" if POSITION_IDS in state else "without"
    return passed("tensors", f"all {len(expected)} names and shapes of the model, {ids} the "
                  "position_ids of old transformers versions", **values)  # fmt: skip


def _parameters(
    state: Mapping[str, Tensor], expected: Mapping[str, Slot], classifier: Mapping[str, Tensor]
) -> Check:
    served = [n for n, slot in expected.items() if slot.ours is not None and n in state]
    counts = {
        part: sum(state[name].numel() for name in served if name.startswith(prefix))
        for part, prefix in _PARTS
    }
    if classifier:
        counts["classifier"] = sum(tensor.numel() for tensor in classifier.values())
    total = sum(counts.values())
    told = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return passed("parameters", f"{total:,} are served: {told}", total=total, parts=counts)


def _dropped(state: Mapping[str, Tensor], expected: Mapping[str, Slot]) -> Check:
    nbytes: dict[str, int] = defaultdict(int)
    names = [n for n, slot in expected.items() if slot.ours is None and n in state]
    for name in names:
        reason = next((why for part, why in _REASONS if part in name), "not needed for serving")
        nbytes[reason] += state[name].nbytes
    if POSITION_IDS in state:
        nbytes["a range of integers (position_ids)"] += state[POSITION_IDS].nbytes
        names.append(POSITION_IDS)
    total = sum(nbytes.values())
    ranked = sorted(nbytes.items(), key=lambda item: -item[1])
    told = "; ".join(f"{why}: {count / 1e6:.3g} MB" for why, count in ranked if count)
    return passed(
        "dropped", f"{len(names)} tensors, {total / 1e6:.1f} MB, are not needed for serving"
        + (f" ({told})" if told else ""),
        bytes=total, tensors=len(names), bytes_by_reason=dict(nbytes),
    )  # fmt: skip


def _finite(state: Mapping[str, Tensor], expected: Mapping[str, Slot]) -> Check:
    bad: dict[str, dict[str, int]] = {}
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        wide = tensor.float()  # what the export takes; float8 has no comparisons of its own
        if bool(torch.isfinite(wide).all()):
            continue
        nan = int(torch.isnan(wide).sum())
        bad[name] = {"nan": nan, "inf": int((~torch.isfinite(wide)).sum()) - nan}
    unused = {name for name, slot in expected.items() if slot.ours is None}
    if not bad:
        return passed("finite", "no NaN and no infinity in any tensor", tensors={})
    told = _listed([f"{name} ({c['nan']} NaN, {c['inf']} inf)" for name, c in bad.items()])
    if bad.keys() <= unused:
        return warned("finite", f"in tensors that are not served: {told}",
                      "Nothing to do for serving; the file may be damaged.",
                      tensors=bad)  # fmt: skip
    return failed("finite", told, "The training run that wrote it had diverged, or the file is "
                  "damaged: download it again.", tensors=bad)  # fmt: skip


def _geometry(state: Mapping[str, Tensor], config: ModelConfig | None, options: Options) -> Check:
    if config is None:
        return not_run("geometry", "The sizes are unknown.")
    vision = config.vision
    asked = "x".join(map(str, options.geometry.volume_shape))
    spacing = ",".join(f"{edge:g}" for edge in options.geometry.target_spacing_mm)
    published = options.geometry.volume_shape == PUBLISHED_GEOMETRY.volume_shape
    slab = state["to_visual_latent.weight"].shape[1] / vision.width
    values: dict[str, Any] = {
        "volume_shape": list(options.geometry.volume_shape),
        "target_spacing_mm": list(options.geometry.target_spacing_mm),
        "patch_shape": list(vision.patch_shape), "tokens_per_slab": slab,
    }  # fmt: skip
    try:
        loading._check_geometry(state, vision)
    except InvalidInput as error:
        return failed("geometry", error.cause, _geometry_remedy(slab, vision), **values)
    tokens = " × ".join(map(str, vision.token_shape))
    return passed(
        "geometry", f"{asked}{' (published)' if published else ''} makes {tokens} tokens, as the "
        f"image projection takes them; voxels of {spacing} mm, which no tensor can tell",
        token_shape=list(vision.token_shape), **values,
    )  # fmt: skip


def _geometry_remedy(slab: float, vision: VisionConfig) -> str:
    if not slab.is_integer():
        return _ORIGINAL
    pairs = [(n, int(slab) // n) for n in range(1, int(slab) + 1) if int(slab) % n == 0]
    rows, columns = min(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    _, height, width = vision.patch_shape
    return (
        f"Give the shape it was trained with as --volume-shape; {slab:g} tokens a slab could be "
        f"Zx{rows * height}x{columns * width}, with Z a multiple of {vision.patch_shape[0]}."
    )


def _text_model(config: ModelConfig | None, options: Options) -> Check:
    if options.text_model is None:
        return not_run(
            "text model", "No --text-model DIR: the vocabulary and BERT's number of heads are not "
            "in the checkpoint.", "Give the folder with config.json and vocab.txt.",
        )  # fmt: skip
    try:
        found = read_text_model(options.text_model)
    except CTClipError as error:
        return failed("text model", error.cause, error.remedy)
    values: dict[str, Any] = {
        "vocabulary_sha256": found.vocabulary_sha256, "heads": found.config.heads,
        "vocabulary_size": found.config.vocabulary_size,
    }  # fmt: skip
    if config is not None:
        stated, shapes = asdict(found.config), asdict(config.text)
        other = [
            f"{name} {stated[name]} instead of {shapes[name]}"
            for name in shapes
            if name not in ("heads", "layer_norm_eps") and stated[name] != shapes[name]
        ]
        if other:
            return failed(
                "text model", f"its config.json is another model's: {', '.join(other)}",
                "Take the folder that belongs to the checkpoint.", differences=other, **values,
            )  # fmt: skip
    if found.is_bert_base:
        return warned(
            "text model", "the vocabulary is bert-base-uncased's: as many words as CXR-BERT's, "
            "and other ones", "Published checkpoints were trained with "
            "microsoft/BiomedVLP-CXR-BERT-specialized's.", **values,
        )  # fmt: skip
    return passed("text model", f"{found.config.vocabulary_size:,} words, {found.config.heads} "
                  "heads, sizes as in the checkpoint", **values)  # fmt: skip


def _export(path: Path, options: Options, earlier: list[Check]) -> Check:
    """The loader that export uses has the last word."""
    if any(check.verdict is Verdict.FAIL for check in earlier):
        return not_run("export", "A check before it failed.")
    if options.text_model is None:
        return not_run("export", "No --text-model DIR, without which nothing can be exported.")
    try:
        with options.stages.stage("Load it as ctclip export does"):
            load_checkpoint(path, read_text_model(options.text_model), options.geometry)
    except CTClipError as error:
        return failed("export", error.cause, error.remedy)
    return passed("export", "loads into the reference model, as ctclip export would")


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f", and {more} more" if more > 0 else "")
