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
    EXPLAIN,
    PAIRS_AT_ONCE,
    PATHOLOGIES,
    PROMPTS,
    PUBLISHED_FINDINGS,
    RESCALE,
    SPACING,
    TEXT,
    VOLUME,
    ZERO_SHOT,
    Ensemble,
    Finding,
)
from ctclip_client.doctor.configs import release_sizes
from ctclip_client.doctor.phantom import small_phantom
from ctclip_client.doctor.report import (
    HEALTH_CHECK,
    Check,
    failed,
    judged,
    not_run,
    of_weights,
    passed,
    warned,
)
from ctclip_client.doctor.triton import Triton
from ctclip_client.errors import CTClipError, InvalidInput, ServerError
from ctclip_client.prompts import sentences
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
"""Relative to the difference: no precision explains more."""
_BROKEN = "Check the repository on the server's machine (ctclip doctor DIR, ctclip parity)."
_EMBEDDINGS = {"IMAGE_EMBEDDING", "TEXT_EMBEDDING"}


@dataclass
class Answers:
    """What the requests have brought so far.

    arrays: by ensemble, then by output. provenance: the first that came. releases: by ensemble.
    transport: how the volumes travelled, "" as long as none did.
    """

    arrays: dict[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    provenance: Provenance | None = None
    releases: dict[str, str] = field(default_factory=dict)
    transport: str = ""

    def sizes(self) -> dict[str, int]:
        """Axes that are known by now: those of the release, and the embedding's width."""
        sizes: dict[str, int] = {}
        if self.provenance is not None:
            with suppress(KeyError, TypeError, ValueError):  # a record that lacks its geometry
                sizes |= release_sizes(self.provenance.content)
        for arrays in self.arrays.values():
            for name in arrays.keys() & _EMBEDDINGS:
                sizes["E"] = arrays[name].shape[1]
        return sizes

    def prompts(self) -> tuple[Finding, ...]:
        """The release's own prompts where they are known, as many as go in one request."""
        known = () if self.provenance is None else self.provenance.prompts
        return (known or PUBLISHED_FINDINGS)[:PAIRS_AT_ONCE]

    def adopt(self, ensemble: Ensemble, answer: Answer) -> None:
        """Keep an answer.

        Raises:
            ServerError: its PROVENANCE cannot be read, or names other findings than it scores.
        """
        self.arrays[ensemble.name] = answer.arrays
        if VOLUME in ensemble.inputs:
            self.transport = answer.transport.kind
        if "PROVENANCE" not in answer.arrays:
            return
        provenance = Provenance.from_json(answer.arrays["PROVENANCE"][0])
        self.releases[ensemble.name] = provenance.release
        self.provenance = self.provenance or provenance
        field, names = "findings", provenance.findings
        if ensemble is CLASSIFY:
            field, names = "classes", provenance.classes
        if ensemble is PATHOLOGIES or ensemble is CLASSIFY:
            count = answer.arrays["PROBABILITIES"].shape[1]
            if count != len(names):
                raise ServerError(
                    f"PROVENANCE names {len(names)} {field}, the answer scores {count}.",
                    "The repository mixes two releases: export it again.",
                )


def health_checks(triton: Triton, ready: Mapping[str, bool], answers: Answers) -> Iterator[Check]:
    """Send one request through each ensemble; `ready`: name -> whether the server has it ready."""
    for ensemble in (*ENSEMBLES, CLASSIFY):
        if ensemble.name not in ready:
            continue  # not exported, or reported as missing already
        if ready[ensemble.name]:
            yield _ask(triton, ensemble, answers)
        else:
            yield not_run(HEALTH_CHECK, "The server does not have it ready.", about=ensemble.name)


def _ask(triton: Triton, ensemble: Ensemble, answers: Answers) -> Check:
    started = time.perf_counter()
    try:
        answer = triton.infer(_call(ensemble, answers))
        answers.adopt(ensemble, answer)
    except CTClipError as error:
        return failed(HEALTH_CHECK, error.cause, error.remedy or _BROKEN, ensemble.name)
    elapsed_ms = (time.perf_counter() - started) * 1000
    shapes = {name: list(array.shape) for name, array in answer.arrays.items()}
    values = {"total_ms": round(elapsed_ms, 3), "shapes": shapes}
    told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    return judged(
        HEALTH_CHECK, _problems(answer.arrays), f"{told}; {elapsed_ms:.0f} ms", _BROKEN,
        ensemble.name, **values,
    )  # fmt: skip


def _call(ensemble: Ensemble, answers: Answers) -> Call:
    prompts = answers.prompts()
    texts = strings(sentences(prompts))
    every: dict[str, NDArray[Any]] = {
        **small_phantom().tensors(),
        PROMPTS.name: texts,
        TEXT.name: texts,
    }
    inputs = tuple(Input(tensor, every[tensor.name]) for tensor in ensemble.inputs)
    sizes = {**answers.sizes(), "P": len(prompts), "N": len(texts)}
    return Call(ensemble, inputs, sizes)


def _problems(arrays: Mapping[str, NDArray[Any]]) -> list[str]:
    found = []
    for name in arrays.keys() & _EMBEDDINGS:
        lengths = np.linalg.norm(arrays[name].astype(np.float64), axis=-1)
        if np.abs(lengths - 1).max() > _UNIT_LENGTH_TOLERANCE:
            found.append(f"{name} has length {lengths.max():.3g}, expected 1")
    if "PROBABILITIES" in arrays:
        low, high = float(arrays["PROBABILITIES"].min()), float(arrays["PROBABILITIES"].max())
        if low < 0 or high > 1:
            found.append(f"PROBABILITIES run from {low:g} to {high:g}, expected 0 to 1")
    return found


def agreement_checks(answers: Answers) -> Iterator[Check]:
    """The ensembles saw one phantom, so what they say about it must fit together."""
    yield _same_image(answers)
    yield _same_scores(answers)
    yield _relevance_adds_up(answers)


def _same_image(answers: Answers) -> Check:
    embeddings = [
        arrays["IMAGE_EMBEDDING"][0].astype(np.float64)
        for arrays in answers.arrays.values()
        if "IMAGE_EMBEDDING" in arrays
    ]
    if len(embeddings) < 2:
        return not_run("same image", "Fewer than two ensembles gave an image embedding.")
    first, *others = (each / max(float(np.linalg.norm(each)), 1e-12) for each in embeddings)
    cosine = min(float(first @ other) for other in others)
    detail = f"{len(embeddings)} ensembles embed the phantom alike: least cosine {cosine:.6f}"
    wrong = [f"{detail}, expected {_SAME_SCAN_COSINE} or more"]
    return judged(
        "same image", wrong if cosine < _SAME_SCAN_COSINE else [], detail,
        "Their vision models differ: look at the pins and promote one release.",
        least_cosine=cosine,
    )  # fmt: skip


def _same_scores(answers: Answers) -> Check:
    bank, free = (answers.arrays.get(each.name) for each in (PATHOLOGIES, ZERO_SHOT))
    if bank is None or free is None or answers.provenance is None:
        return not_run(
            "same scores", "ctclip_pathologies and ctclip_zero_shot did not both answer."
        )
    prompts = answers.prompts()
    count = len(prompts)
    if answers.provenance.prompts[:count] != prompts:
        return not_run("same scores", "The release's prompts are unknown.")
    change = np.abs(bank["PROBABILITIES"][0, :count] - free["PROBABILITIES"][0, :count])
    values = {"largest_change": float(change.max()), "prompts": count}
    detail = (
        f"the same {count} prompts through the bank and the text encoder: largest change of a "
        f"probability {change.max():.1e}"
    )
    wrong = [f"{detail}, expected at most {_SAME_PROMPT_TOLERANCE}"]
    return judged(
        "same scores", wrong if change.max() > _SAME_PROMPT_TOLERANCE else [], detail,
        "Tokenizer, text encoder and bank are not of one release, or a precision is too low: "
        "ctclip doctor and ctclip parity on the repository.", **values,
    )  # fmt: skip


def _relevance_adds_up(answers: Answers) -> Check:
    """Contract: summed over its last three axes, RELEVANCE is logit present − logit absent."""
    arrays = answers.arrays.get(EXPLAIN.name)
    if arrays is None:
        return not_run("relevance", "ctclip_explain did not answer.")
    sums = arrays["RELEVANCE"].astype(np.float64).sum(axis=(2, 3, 4))[0]
    logits = arrays["LOGITS"][0].astype(np.float64)
    margin = logits[:, 0] - logits[:, 1]
    error = np.abs(sums - margin)
    largest = float(error.max())
    detail = f"maps add up to the difference of the logits within {largest:.1e}"
    if largest <= _SHARES_BOUND:
        return passed("relevance", detail, largest_error=largest)
    made, remedy = warned, (
        "The vision model computes in a low precision: serve float32 where the maps have to be "
        "exact."
    )  # fmt: skip
    if float((error / (1 + np.abs(margin))).max()) > _SHARES_TOLERANCE:
        made, remedy = failed, "ctclip_relevance is not of the same release: export again."
    return made("relevance", f"{detail}, expected {_SHARES_BOUND} or less", remedy,
                largest_error=largest)  # fmt: skip


def refusal_check(triton: Triton) -> Check:
    """A spacing that is no number must be refused, never guessed around."""
    spacing = np.array([np.nan, 1, 1], np.float64)
    inputs = (Input(SPACING, spacing), Input(RESCALE, np.array([1, 0], np.float32)))
    try:
        triton.infer(Call(CHECK, inputs))
    except InvalidInput:
        return passed("refusal", "a spacing of NaN is refused")
    except CTClipError as error:
        return failed("refusal", f"a spacing of NaN: {error.cause}", _BROKEN)
    return failed("refusal", "a spacing of NaN is accepted", _BROKEN)


def provenance_checks(answers: Answers) -> Iterator[Check]:
    """Say which release answered, from what, and whether it was one and the same."""
    provenance = answers.provenance
    if provenance is None:
        yield not_run("provenance", "No ensemble returned a PROVENANCE that can be read.")
        return
    releases = sorted(set(answers.releases.values()))
    if len(releases) > 1:
        yield failed("release", f"ensembles answer for different releases: {answers.releases}",
                     "Promote one release for all of them.", releases=answers.releases)  # fmt: skip
    else:
        yield passed("release", f"{releases[0]}, one for all ensembles", release=releases[0])
    yield passed("contract", f"version {provenance.contract_version}",
                 version=provenance.contract_version)  # fmt: skip
    count = len(provenance.findings)
    detail = f"{provenance.checkpoint_name}, {provenance.precision}, {count} findings"
    values = {
        "checkpoint": provenance.checkpoint_name,
        "checkpoint_sha256": provenance.checkpoint_sha256,
        "precision": provenance.precision, "findings": count,
        "geometry": provenance.content.get("geometry"),
    }  # fmt: skip
    yield of_weights("provenance", detail, values, random_weights=provenance.random_weights)
