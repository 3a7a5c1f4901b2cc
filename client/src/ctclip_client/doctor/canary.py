"""Real requests, made of a phantom, through every public ensemble; and what their answers show."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import (
    CHECK,
    CLASSIFY,
    ENSEMBLES,
    PAIRS_AT_ONCE,
    PROMPTS,
    PUBLISHED_FINDINGS,
    RESCALE,
    SPACING,
    TEXT,
    VOLUME,
    Ensemble,
    Finding,
)
from ctclip_client.doctor.configs import release_sizes
from ctclip_client.doctor.phantom import canary_volume
from ctclip_client.doctor.report import Check, failed, not_run, passed, warned
from ctclip_client.doctor.triton import Triton
from ctclip_client.errors import CTClipError, InvalidInput, ServerError
from ctclip_client.results import Provenance
from ctclip_client.transport.infer import Answer, Call
from ctclip_client.transport.wire import Input, strings

_UNIT_LENGTH_TOLERANCE = 1e-2
"""float16 rounds 512 squares to about 1e-3; a vector that was never normalised is off by far."""
_SAME_SCAN_COSINE = 0.999
_SAME_PROMPT_TOLERANCE = 0.05
_SHARES_BOUND = 1e-3
"""The contract's: maps add up to the difference of the logits this closely, in float32."""
_SHARES_TOLERANCE = 0.05
"""Beyond it, relative to the difference, no precision is to blame."""
_BROKEN = "Check the repository on the server's machine (ctclip doctor DIR, ctclip parity)."
_ALL = (*ENSEMBLES, CLASSIFY)


@dataclass
class Canary:
    """What the requests have brought so far: the arrays of each ensemble, and the release."""

    answers: dict[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    provenance: Provenance | None = None
    releases: dict[str, str] = field(default_factory=dict)
    transport: str = ""

    def sizes(self) -> dict[str, int]:
        """Axes that are known by now: those of the release, and the embedding's width."""
        sizes: dict[str, int] = {}
        if self.provenance is not None:
            with suppress(KeyError, TypeError, ValueError):  # a record that lacks its geometry
                sizes |= release_sizes(self.provenance.content)
        for arrays in self.answers.values():
            for name in ("IMAGE_EMBEDDING", "TEXT_EMBEDDING"):
                if name in arrays:
                    sizes["E"] = arrays[name].shape[1]
        return sizes

    def prompts(self) -> tuple[Finding, ...]:
        """The release's own prompts where they are known, as many as go in one request."""
        known = () if self.provenance is None else self.provenance.prompts
        return (known or PUBLISHED_FINDINGS)[:PAIRS_AT_ONCE]


def run_canaries(triton: Triton, ready: Mapping[str, bool], canary: Canary) -> Iterator[Check]:
    """Send one request through each ensemble; `ready`: name -> whether the server has it ready."""
    for ensemble in _ALL:
        if ensemble.name not in ready:
            continue  # not exported, or reported as missing already
        if not ready[ensemble.name]:
            yield not_run("canary", "The server does not have it ready.", about=ensemble.name)
            continue
        yield _one(triton, ensemble, canary)


def _one(triton: Triton, ensemble: Ensemble, canary: Canary) -> Check:
    started = time.perf_counter()
    try:
        answer = triton.infer(_call(ensemble, canary))
        _adopt(ensemble, answer, canary)
    except CTClipError as error:
        return failed("canary", error.cause, error.remedy or _BROKEN, ensemble.name)
    elapsed_ms = (time.perf_counter() - started) * 1000
    shapes = {name: list(array.shape) for name, array in answer.arrays.items()}
    problems = _problems(answer.arrays)
    values = {"total_ms": round(elapsed_ms, 3), "shapes": shapes}
    if problems:
        return failed("canary", "; ".join(problems), _BROKEN, ensemble.name, **values)
    told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return passed("canary", f"{told}; {elapsed_ms:.0f} ms", ensemble.name, **values)


def _call(ensemble: Ensemble, canary: Canary) -> Call:
    prompts = canary.prompts()
    sentences = [text for entry in prompts for text in (entry.present, entry.absent)]
    every: dict[str, NDArray[Any]] = {
        **canary_volume().tensors(),
        PROMPTS.name: strings(sentences),
        TEXT.name: strings(sentences),
    }
    inputs = tuple(Input(tensor, every[tensor.name]) for tensor in ensemble.inputs)
    sizes = {**canary.sizes(), "P": len(prompts), "N": len(sentences)}
    shareable = VOLUME.name if VOLUME in ensemble.inputs else None
    return Call(ensemble, inputs, sizes, shareable)


def _adopt(ensemble: Ensemble, answer: Answer, canary: Canary) -> None:
    canary.answers[ensemble.name] = answer.arrays
    if VOLUME in ensemble.inputs:
        canary.transport = answer.transport.kind
    if "PROVENANCE" not in answer.arrays:
        return
    provenance = Provenance.from_json(answer.arrays["PROVENANCE"][0])
    canary.releases[ensemble.name] = provenance.release
    if canary.provenance is not None:
        return
    canary.provenance = provenance
    count = answer.arrays["PROBABILITIES"].shape[1] if "LOGITS" in answer.arrays else None
    if ensemble.name == ENSEMBLES[0].name and count != len(provenance.findings):
        raise ServerError(
            f"PROVENANCE names {len(provenance.findings)} findings, the answer scores {count}.",
            "The repository mixes two releases: export it again.",
        )


def _problems(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    found = []
    for name in ("IMAGE_EMBEDDING", "TEXT_EMBEDDING"):
        if name in arrays:
            lengths = np.linalg.norm(arrays[name].astype(np.float64), axis=-1)
            if np.abs(lengths - 1).max() > _UNIT_LENGTH_TOLERANCE:
                found.append(f"{name} has length {lengths.max():.3g}, expected 1")
    if "PROBABILITIES" in arrays:
        low, high = float(arrays["PROBABILITIES"].min()), float(arrays["PROBABILITIES"].max())
        if low < 0 or high > 1:
            found.append(f"PROBABILITIES run from {low:g} to {high:g}, expected 0 to 1")
    return found


def agreement_checks(canary: Canary) -> Iterator[Check]:
    """The ensembles saw one phantom, so what they say about it must fit together."""
    yield _same_image(canary)
    yield _same_scores(canary)
    yield _relevance_adds_up(canary)


def _same_image(canary: Canary) -> Check:
    embeddings = {
        name: arrays["IMAGE_EMBEDDING"][0].astype(np.float64)
        for name, arrays in canary.answers.items()
        if "IMAGE_EMBEDDING" in arrays
    }
    if len(embeddings) < 2:
        return not_run("same image", "Fewer than two ensembles gave an image embedding.")
    (_, first), *others = embeddings.items()
    length = np.linalg.norm(first)
    cosine = min(
        float(first @ other / max(length * np.linalg.norm(other), 1e-12)) for _, other in others
    )
    detail = f"{len(embeddings)} ensembles embed the phantom alike: least cosine {cosine:.6f}"
    if cosine < _SAME_SCAN_COSINE:
        return failed("same image", f"{detail}, expected {_SAME_SCAN_COSINE} or more",
                      "Their vision models differ: look at the pins and promote one release.",
                      least_cosine=cosine)  # fmt: skip
    return passed("same image", detail, least_cosine=cosine)


def _same_scores(canary: Canary) -> Check:
    bank, free = (canary.answers.get(f"ctclip_{name}") for name in ("pathologies", "zero_shot"))
    if bank is None or free is None or canary.provenance is None:
        return not_run(
            "same scores", "ctclip_pathologies and ctclip_zero_shot did not both answer."
        )
    count = len(canary.prompts())
    if canary.provenance.prompts[:count] != canary.prompts():
        return not_run("same scores", "The release's prompts are unknown.")
    change = np.abs(bank["PROBABILITIES"][0, :count] - free["PROBABILITIES"][0, :count])
    largest = float(change.max())
    detail = f"the same {count} prompts through the bank and the text encoder: largest change of "
    detail += f"a probability {largest:.1e}"
    if largest > _SAME_PROMPT_TOLERANCE:
        return failed("same scores", f"{detail}, expected at most {_SAME_PROMPT_TOLERANCE}",
                      "Tokenizer, text encoder and bank are not of one release, or a precision "
                      "is too low: ctclip doctor and ctclip parity on the repository.",
                      largest_change=largest, prompts=count)  # fmt: skip
    return passed("same scores", detail, largest_change=largest, prompts=count)


def _relevance_adds_up(canary: Canary) -> Check:
    """Contract: summed over its last three axes, RELEVANCE is logit present − logit absent."""
    arrays = canary.answers.get("ctclip_explain")
    if arrays is None:
        return not_run("relevance", "ctclip_explain did not answer.")
    sums = arrays["RELEVANCE"].astype(np.float64).sum(axis=(2, 3, 4))[0]
    logits = arrays["LOGITS"][0].astype(np.float64)
    margin = logits[:, 0] - logits[:, 1]
    error = np.abs(sums - margin)
    largest = float(error.max())
    detail = f"maps add up to the difference of the logits within {largest:.1e}"
    expected = f"expected {_SHARES_BOUND} or less"
    if float((error / (1 + np.abs(margin))).max()) > _SHARES_TOLERANCE:
        return failed("relevance", f"{detail}, {expected}",
                      "ctclip_relevance is not of the same release: export again.",
                      largest_error=largest)  # fmt: skip
    if largest > _SHARES_BOUND:
        return warned("relevance", f"{detail}, {expected}",
                      "The vision model computes in a low precision: serve float32 where the maps "
                      "have to be exact.", largest_error=largest)  # fmt: skip
    return passed("relevance", detail, largest_error=largest)


def refusal_check(triton: Triton) -> Check:
    """A spacing that is no number must be refused, never guessed around."""
    spacing = np.array([np.nan, 1, 1], np.float64)
    inputs = (Input(SPACING, spacing), Input(RESCALE, np.array([1, 0], np.float32)))
    try:
        triton.infer(Call(CHECK, inputs, {}))
    except InvalidInput:
        return passed("refusal", "a spacing of NaN is refused")
    except CTClipError as error:
        return failed("refusal", f"a spacing of NaN: {error.cause}", _BROKEN)
    return failed("refusal", "a spacing of NaN is accepted", _BROKEN)


def provenance_checks(canary: Canary) -> Iterator[Check]:
    """Say which release answered, from what, and whether it was one and the same."""
    provenance = canary.provenance
    if provenance is None:
        yield not_run("provenance", "No ensemble returned a PROVENANCE that can be read.")
        return
    releases = sorted(set(canary.releases.values()))
    if len(releases) > 1:
        yield failed("release", f"ensembles answer for different releases: {canary.releases}",
                     "Promote one release for all of them.", releases=canary.releases)  # fmt: skip
    else:
        yield passed("release", f"{releases[0]}, one for all ensembles", release=releases[0])
    yield passed("contract", f"version {provenance.contract_version}",
                 version=provenance.contract_version)  # fmt: skip
    detail = (
        f"{provenance.checkpoint_name}, {provenance.precision}, {len(provenance.findings)} findings"
    )
    values = {
        "checkpoint": provenance.checkpoint_name,
        "checkpoint_sha256": provenance.checkpoint_sha256,
        "precision": provenance.precision, "findings": len(provenance.findings),
        "random_weights": provenance.random_weights,
        "geometry": provenance.content.get("geometry"),
    }  # fmt: skip
    if provenance.random_weights:
        yield warned("provenance", f"RANDOM WEIGHTS: {detail}; its results mean nothing",
                     "For demonstrations only.", **values)  # fmt: skip
    else:
        yield passed("provenance", detail, **values)
