"""A checkpoint: what it is, what is in it, and whether `ctclip export` would take it.

Without the text model's folder everything is told that the tensors' shapes can tell; that leaves
the vocabulary and BERT's number of heads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ctclip_client.doctor.inspectors import DoctorOptions
from ctclip_client.doctor.report import Check, Verdict, failed, not_run, passed, warned
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_client.release.digest import sha256
from ctclip_export.checkpoint import load_checkpoint, read_text_model
from ctclip_export.checkpoint.checks import check_variant, tensor_checks
from ctclip_export.checkpoint.file import declared_random, read_contents
from ctclip_export.checkpoint.names import (
    POSITION_IDS,
    TEXT,
    VISION,
    slots,
    text_config,
    vision_config,
)
from ctclip_export.checkpoint.unwrap import Contents
from ctclip_export.model import ModelConfig

_OF_TENSORS = ("tensors", "parameters", "dropped", "finite", "geometry")
_AFTER_VARIANT = ("sizes", *_OF_TENSORS, "text model", "export")
_NOT_IN_SHAPES = ("heads", "layer_norm_eps")
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
    (POSITION_IDS, "a range of integers (position_ids)"),
)


def inspect(path: Path, options: DoctorOptions) -> Iterator[Check]:
    """Examine a checkpoint. Nothing in the file is executed."""
    with options.stages.stage("Hash the file"):
        digest = sha256(path)
    yield passed("file", f"{path.stat().st_size:,} bytes, SHA-256 {digest[:16]}…",
                 bytes=path.stat().st_size, sha256=digest)  # fmt: skip
    try:
        contents = read_contents(path)
    except CTClipError as error:
        yield failed("read", error.cause, error.remedy)
        for name in ("variant", "random weights", *_AFTER_VARIANT):
            yield not_run(name, "The file could not be read.")
        return
    count = len(contents.state) + len(contents.classifier)
    yield passed("read", f"{count} tensors and nothing that wants to run code", tensors=count)
    variant = check_variant(contents)
    yield variant
    yield _random_weights(path)
    if variant.verdict is Verdict.FAIL:
        for name in _AFTER_VARIANT:
            yield not_run(name, "It is no checkpoint that can be served.")
        return
    checks = list(_contents(contents, options))
    yield from checks
    if any(check.verdict is Verdict.FAIL for check in checks):
        yield not_run("export", "A check before it failed.")
    else:
        yield _export(path, options)


def _contents(contents: Contents, options: DoctorOptions) -> Iterator[Check]:
    config = None
    try:
        config = ModelConfig(
            vision_config(contents.state, options.geometry.volume_shape),
            text_config(contents.state),
        )
    except InvalidInput as error:
        yield failed("sizes", error.cause, error.remedy)
        for name in _OF_TENSORS:
            yield not_run(name, "The sizes are unknown.")
    else:
        yield _sizes(contents, config)
        with options.stages.stage("Check the tensors"):
            checks = list(tensor_checks(contents, config, options.geometry))
        yield from checks
        yield _parameters(contents, config)
        yield _dropped(contents, config)
    yield _text_model(config, options)


def _random_weights(path: Path) -> Check:
    declared = declared_random(path)
    if declared.is_file():
        return warned(
            "random weights", f"RANDOM WEIGHTS: {declared.name} beside it says that it was never "
            "trained", "For demonstrations only; its results mean nothing.", random_weights=True,
        )  # fmt: skip
    return passed("random weights", "nothing beside it declares them", random_weights=False)


def _sizes(contents: Contents, config: ModelConfig) -> Check:
    vision, text = config.vision, config.text
    patch = " × ".join(map(str, vision.patch_shape))
    detail = (
        f"patches {patch}, width {vision.width}, {vision.spatial_layers} + "
        f"{vision.temporal_layers} layers, {vision.heads} heads, {vision.codebook_size:,} codes; "
        f"text: {text.layers} layers, width {text.width}, vocabulary {text.vocabulary_size:,}; "
        f"embeddings {vision.embedding_size}"
    )
    values: dict[str, Any] = {
        "vision": {k: v for k, v in asdict(vision).items() if k != "volume_shape"},
        "text": {k: v for k, v in asdict(text).items() if k not in _NOT_IN_SHAPES},
    }
    temperature = contents.state.get("temperature")
    if temperature is not None and temperature.numel() == 1:
        values["logit_scale"] = float(temperature.float().exp())
    return passed("sizes", detail, **values)


def _parameters(contents: Contents, config: ModelConfig) -> Check:
    served = {
        name: contents.state[name].numel()
        for name, slot in slots(config).items()
        if slot.ours is not None and name in contents.state
    }
    counts = {
        part: sum(count for name, count in served.items() if name.startswith(prefix))
        for part, prefix in _PARTS
    }
    if contents.classifier:
        counts["classifier"] = sum(tensor.numel() for tensor in contents.classifier.values())
    total = sum(counts.values())
    told = ", ".join(f"{part} {count:,}" for part, count in counts.items())
    return passed("parameters", f"{total:,} are served: {told}", total=total, parts=counts)


def _dropped(contents: Contents, config: ModelConfig) -> Check:
    names = [name for name, slot in slots(config).items() if slot.ours is None]
    dropped = [name for name in (*names, POSITION_IDS) if name in contents.state]
    nbytes: dict[str, int] = defaultdict(int)
    for name in dropped:
        reason = next((why for part, why in _REASONS if part in name), "not needed for serving")
        nbytes[reason] += contents.state[name].nbytes
    total = sum(nbytes.values())
    ranked = sorted(nbytes.items(), key=lambda item: -item[1])
    told = "; ".join(f"{why}: {count / 1e6:.3g} MB" for why, count in ranked if count)
    return passed(
        "dropped", f"{len(dropped)} tensors, {total / 1e6:.1f} MB, are not needed for serving"
        + (f" ({told})" if told else ""),
        bytes=total, tensors=len(dropped), bytes_by_reason=dict(nbytes),
    )  # fmt: skip


def _text_model(config: ModelConfig | None, options: DoctorOptions) -> Check:
    if options.text_model is None:
        return not_run(
            "text model", "No --text-model DIR: the vocabulary and BERT's number of heads are not "
            "in the checkpoint.",
            "Give the folder with config.json, and vocab.txt or tokenizer.json.",
        )  # fmt: skip
    try:
        found = read_text_model(options.text_model)
    except CTClipError as error:
        return failed("text model", error.cause, error.remedy)
    values: dict[str, Any] = {
        "vocabulary_sha256": found.vocabulary_sha256, "heads": found.config.heads,
        "vocabulary_size": found.config.vocabulary_size,
    }  # fmt: skip
    stated = asdict(found.config)
    shapes = {} if config is None else asdict(config.text)
    other = [
        f"{name} {stated[name]} instead of {shapes[name]}"
        for name in shapes
        if name not in _NOT_IN_SHAPES and stated[name] != shapes[name]
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


def _export(path: Path, options: DoctorOptions) -> Check:
    """The loader that export uses has the last word."""
    if options.text_model is None:
        return not_run("export", "No --text-model DIR, without which nothing can be exported.")
    try:
        with options.stages.stage("Load it as ctclip export does"):
            load_checkpoint(path, read_text_model(options.text_model), options.geometry)
    except CTClipError as error:
        return failed("export", error.cause, error.remedy)
    return passed("export", "loads into the reference model, as ctclip export would")
