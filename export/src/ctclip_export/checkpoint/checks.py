"""What a checkpoint has to pass. Export refuses at the first failure, `ctclip doctor` lists all.

A fault that checkpoints can have is looked for here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ctclip_client.contract import PUBLISHED_GEOMETRY, Geometry
from ctclip_client.doctor.report import Check, Verdict, failed, passed, warned
from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint.classfine import build_classifier
from ctclip_export.checkpoint.file import V2_FILES
from ctclip_export.checkpoint.names import INITTED, POSITION_IDS, VISION, slots
from ctclip_export.checkpoint.unwrap import Contents
from ctclip_export.model import ModelConfig, VisionConfig

_PROJECTION = "to_visual_latent"
_V1_INPUTS = 2_097_152
_LISTED = 8
_LARGEST_TEMPERATURE = 88.0
"""exp() of more leaves float32."""
_ORIGINAL = f"Take an original {V2_FILES}, and the text model's folder that belongs to it."
_DIVERGED = (
    "The training run that wrote it had diverged, or the file is damaged: download it again."
)


def refuse_failed(checks: Iterable[Check]) -> None:
    """Make the checks one by one.

    Raises: InvalidInput at the first that fails.
    """
    for check in checks:
        if check.verdict is Verdict.FAIL:
            raise InvalidInput(f"checkpoint: {check.name}: {check.detail}.", check.remedy)


def check_variant(contents: Contents) -> Check:
    """Which CT-CLIP it is, if any."""
    latent = contents.state.get(f"{_PROJECTION}.weight")
    if latent is not None and latent.shape[1:] == (_V1_INPUTS,):
        return failed(
            "variant", "CT-CLIP v1 (image projection of 2,097,152 inputs), a different network",
            f"Take a v2 file instead: {V2_FILES}.", variant="v1",
        )  # fmt: skip
    if not any(name.startswith(VISION) for name in contents.state):
        held = [f"{name!r} {tuple(t.shape)}" for name, t in contents.state.items()]
        told = _listed([*held, *contents.beside]) or "nothing"
        told = f"no tensor is named {VISION}…; {contents.entry or 'the file'} holds {told}"
        return failed("variant", f"not a CT-CLIP: {told}", _ORIGINAL, variant="unknown")
    variant, told = "v2", "CT-CLIP v2, or VocabFine v2, whose names and shapes are the same"
    if contents.classifier:
        variant, told = "classfine", "ClassFine (CT-LiPro): a CT-CLIP v2 and a classifier"
    if contents.entry:
        told += f"; taken from entry {contents.entry}"
    if contents.prefix:
        told += f"; every name stands behind {contents.prefix!r}, which is taken off"
    if contents.beside:
        told += f"; not looked at: {_listed(list(contents.beside))}"
    return passed("variant", told, variant=variant, entry=contents.entry, prefix=contents.prefix)


def tensor_checks(contents: Contents, config: ModelConfig, geometry: Geometry) -> Iterator[Check]:
    """Hold the tensors against a model of these sizes and its grid."""
    yield _geometry(contents, config.vision, geometry)
    yield _names_and_shapes(contents, config)
    yield _finite(contents, config)


def _geometry(contents: Contents, vision: VisionConfig, geometry: Geometry) -> Check:
    shape = "x".join(map(str, vision.volume_shape))
    inputs = contents.state[f"{_PROJECTION}.weight"].shape[1]
    tokens_per_slab = inputs / vision.width
    values: dict[str, Any] = {
        "volume_shape": list(vision.volume_shape),
        "target_spacing_mm": list(geometry.target_spacing_mm),
        "patch_shape": list(vision.patch_shape), "tokens_per_slab": tokens_per_slab,
    }  # fmt: skip
    slabs, rows, columns = vision.token_shape
    uneven = [
        f"--volume-shape: {size} voxels along {axis} are not a multiple of the checkpoint's patch "
        f"of {patch}"
        for axis, size, patch in zip("zxy", vision.volume_shape, vision.patch_shape, strict=True)
        if size < patch or size % patch
    ]
    if not uneven and inputs != rows * columns * vision.width:
        uneven.append(
            f"--volume-shape: {shape} makes {rows} × {columns} tokens a slab, but the checkpoint's "
            f"image projection was trained for {tokens_per_slab:g} (to_visual_latent.weight has "
            f"{inputs:,} inputs of width {vision.width})"
        )
    if uneven:
        return failed(
            "geometry", "; ".join(uneven), _shape_to_give(tokens_per_slab, vision), **values
        )
    spacing = ",".join(f"{edge:g}" for edge in geometry.target_spacing_mm)
    published = " (published)" if vision.volume_shape == PUBLISHED_GEOMETRY.volume_shape else ""
    return passed(
        "geometry", f"{shape}{published} makes {slabs} × {rows} × {columns} tokens, as the image "
        f"projection takes them; voxels of {spacing} mm, which no tensor can tell",
        token_shape=list(vision.token_shape), **values,
    )  # fmt: skip


def _shape_to_give(tokens_per_slab: float, vision: VisionConfig) -> str:
    if not tokens_per_slab.is_integer():
        return _ORIGINAL
    count = int(tokens_per_slab)
    rows = max(n for n in range(1, int(count**0.5) + 1) if count % n == 0)  # the squarest
    depth, height, width = vision.patch_shape
    return (
        f"Give the shape it was trained with as --volume-shape; {count} tokens a slab could be "
        f"Zx{rows * height}x{count // rows * width}, with Z a multiple of {depth}."
    )


def _names_and_shapes(contents: Contents, config: ModelConfig) -> Check:
    state, expected = contents.state, slots(config)
    # Whether the image projection fits the volume is the check before; here it has to fit itself.
    projection = (config.vision.embedding_size, state[f"{_PROJECTION}.weight"].shape[1])
    shapes = {n: projection if _PROJECTION in n else slot.shape for n, slot in expected.items()}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected and name != POSITION_IDS]
    wrong = [
        f"{name} is {tuple(state[name].shape)}, expected {shape}"
        for name, shape in shapes.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    integers = [
        f"'{name}' is {state[name].dtype}, expected a floating-point type"
        for name, slot in expected.items()
        if slot.ours is not None and name in state and not state[name].is_floating_point()
    ]
    problems = [
        f"{len(found)} {kind}: {_listed(found)}"
        for kind, found in (
            ("missing", [f"{name} {shapes[name]}" for name in missing]),
            ("unexpected", [f"{name} {tuple(state[name].shape)}" for name in unexpected]),
            ("of another shape", wrong),
            ("not floating-point", integers),
        )
        if found
    ]
    if contents.classifier:
        try:
            build_classifier(contents.classifier, config.vision.embedding_size)
        except InvalidInput as error:
            problems.append(error.cause.rstrip("."))
    problems += _states_that_are_not_served(state, config)
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values())
    values: dict[str, Any] = {
        "tensors": len(state), "dtypes": dict(dtypes), "position_ids": POSITION_IDS in state,
        "missing": missing, "unexpected": unexpected, "wrong_shape": wrong,
    }  # fmt: skip
    if problems:
        return failed("tensors", "; ".join(problems), _ORIGINAL, **values)
    ids = "with" if POSITION_IDS in state else "without"
    return passed("tensors", f"all {len(expected)} names and shapes of the model, {ids} the "
                  "position_ids of old transformers versions", **values)  # fmt: skip


def _states_that_are_not_served(state: Mapping[str, Tensor], config: ModelConfig) -> list[str]:
    """What upstream reads at each call, and serving takes for granted."""
    problems = []
    positions = config.text.positions
    ids, initted = (_numbers(state.get(name)) for name in (POSITION_IDS, INITTED))
    if ids is not None:
        expected = torch.arange(positions)[None].to(state[POSITION_IDS].dtype)
        if not torch.equal(ids, expected.double()):
            problems.append(
                f"'{POSITION_IDS}' is not 0, 1, … {positions - 1}, shape (1, {positions})"
            )
    if initted is not None and not initted.any():
        problems.append(f"'{INITTED}' is 0: upstream makes another codebook of the first scan")
    return problems


def _numbers(tensor: Tensor | None) -> Tensor | None:
    """A tensor of any type that can be compared; of the other types nobody has one."""
    if tensor is None or tensor.is_complex() or tensor.is_quantized:
        return None
    return tensor.double()


def _finite(contents: Contents, config: ModelConfig) -> Check:
    """In float32, which is what the export takes: what float64 holds need not fit."""
    bad: dict[str, dict[str, int]] = {}
    told = []
    for name, tensor in {**contents.state, **contents.classifier}.items():
        if not tensor.is_floating_point():
            continue
        wide = tensor.float()
        count = int((~torch.isfinite(wide)).sum())
        if count:
            nan = int(torch.isnan(wide).sum())
            bad[name] = {"nan": nan, "inf": count - nan}
            told.append(f"'{name}' holds {count} values that are NaN or infinite")
    served = bad.keys() - {name for name, slot in slots(config).items() if slot.ours is None}
    temperature = contents.state.get("temperature")
    if served:
        return failed("finite", _listed(told), _DIVERGED, tensors=bad)
    if temperature is not None and temperature.numel() == 1 and temperature > _LARGEST_TEMPERATURE:
        return failed(
            "finite", f"'temperature' is {float(temperature):g}, expected the logarithm of a logit "
            f"scale, at most {_LARGEST_TEMPERATURE:g}: logits would be infinite",
            _DIVERGED, tensors=bad,
        )  # fmt: skip
    if bad:
        return warned("finite", f"in tensors that are not served: {_listed(told)}",
                      "Nothing to do for serving; the file may be damaged.",
                      tensors=bad)  # fmt: skip
    return passed("finite", "no NaN and no infinity in any tensor", tensors={})


def _listed(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f", and {more} more" if more > 0 else "")
