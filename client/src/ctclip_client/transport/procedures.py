"""What a client can do with a server, step by step and without any network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import cast

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import (
    CHECK,
    CLASSIFY,
    EXPLAIN,
    IMAGE_EMBEDDING_ENSEMBLE,
    PAIRS_AT_ONCE,
    PATHOLOGIES,
    PREPROCESS,
    PROMPTS,
    SCORE,
    TEXT,
    TEXT_EMBEDDING_ENSEMBLE,
    TEXT_ENCODER,
    ZERO_SHOT,
    Ensemble,
    Finding,
)
from ctclip_client.errors import CTClipError, InvalidInput, NotReady, ServerError, Unavailable
from ctclip_client.prompts import check_differ, sentences
from ctclip_client.results import Classification, Explanation, Provenance, Scores
from ctclip_client.transport.failures import check_ready, is_ready
from ctclip_client.transport.infer import Answer, Call, infer
from ctclip_client.transport.retries import retried
from ctclip_client.transport.steps import Deadline, Flow, Session, T
from ctclip_client.transport.wire import Input, strings
from ctclip_client.volume import Volume

Prompt = Finding | tuple[str, str]

_TEXTS_AT_ONCE = TEXT_ENCODER.max_batch_size
_MIXED = "The repository mixes two releases: export it again."
_BROKEN = "The model is broken for this scan; check it with ctclip doctor and ctclip parity."


def pathologies(session: Session, volume: Volume) -> Flow[Scores]:
    """Score a volume with the release's own bank of findings."""
    _, scores = yield from _by_own_bank(session, volume, PATHOLOGIES)
    return scores


def explain(session: Session, volume: Volume) -> Flow[Explanation]:
    """Score a volume with the release's own bank, and say where each score comes from."""
    answer, scores = yield from _by_own_bank(session, volume, EXPLAIN)
    relevance = _float32(answer, "RELEVANCE")[0]
    _, token_shape = scores.provenance.geometry()
    if relevance.shape[1:] != token_shape:
        raise ServerError(
            f"RELEVANCE: got {list(relevance.shape[1:])} tokens, PROVENANCE says "
            f"{list(token_shape)}.",
            _MIXED,
        )
    values = {entry.name: getattr(scores, entry.name) for entry in fields(scores)}
    return Explanation(**values, relevance=relevance)


def _by_own_bank(
    session: Session, volume: Volume, ensemble: Ensemble
) -> Flow[tuple[Answer, Scores]]:
    started = time.perf_counter()
    call = Call(ensemble, _scan(volume))
    answer = yield from _infer_scan(session, volume, call, Deadline(session.timeout_s))
    findings = _provenance(answer).findings
    _check_count(answer, "findings", findings)
    return answer, _scores(answer, answer, findings, _timed(_stages(answer), started))


def classify(session: Session, volume: Volume) -> Flow[Classification]:
    """Score a volume with the trained head of the release, if it has one."""
    started = time.perf_counter()
    call = Call(CLASSIFY, _scan(volume))
    try:
        answer = yield from _infer_scan(session, volume, call, Deadline(session.timeout_s))
    except NotReady as error:
        raise (yield from _without_classfine(session, error)) from error
    provenance = _provenance(answer)
    _check_count(answer, "classes", provenance.classes)
    return Classification(
        findings=provenance.classes,
        probabilities=_probabilities(answer),
        image_embedding=_float32(answer, "IMAGE_EMBEDDING")[0],
        provenance=provenance,
        timings_ms=_timed(_stages(answer), started),
        transport=answer.transport,
        request_id=answer.request_id,
    )


def ready(session: Session, ensemble: str) -> Flow[None]:
    """Find out whether an ensemble answers, before a scan is read for it."""
    try:
        yield from check_ready(session, ensemble)
    except NotReady as error:
        if ensemble != CLASSIFY.name:
            raise
        raise (yield from _without_classfine(session, error)) from error


def zero_shot(session: Session, volume: Volume, prompts: Sequence[Prompt]) -> Flow[Scores]:
    """Score a volume with the caller's prompts; more of them than fit at once go in pieces."""
    bank = [_finding(index, prompt) for index, prompt in enumerate(_listed(prompts, "prompts"))]
    deadline = Deadline(session.timeout_s)
    if len(bank) <= PAIRS_AT_ONCE:
        started = time.perf_counter()
        names = tuple(entry.finding for entry in bank)
        inputs = (*_scan(volume), Input(PROMPTS, strings(sentences(bank))))
        call = Call(ZERO_SHOT, inputs, {"P": len(bank)})
        answer = yield from _infer_scan(session, volume, call, deadline)
        return _scores(answer, answer, names, _timed(_stages(answer), started))
    return (
        yield from retried(session, deadline, lambda: _in_pieces(session, volume, bank, deadline))
    )


def _in_pieces(
    session: Session, volume: Volume, bank: Sequence[Finding], deadline: Deadline
) -> Flow[Scores | Unavailable]:
    """Unavailable: the release was changed meanwhile, and all has to be asked again."""
    started = time.perf_counter()
    texts = sentences(bank)
    call = Call(IMAGE_EMBEDDING_ENSEMBLE, _scan(volume))
    image = yield from _infer_scan(session, volume, call, deadline)
    encoded = time.perf_counter()
    size = image.arrays["IMAGE_EMBEDDING"].shape[1]
    embeddings = yield from _text_embeddings(session, texts, {"E": size}, deadline)
    described = time.perf_counter()
    vectors = (image.arrays["IMAGE_EMBEDDING"], embeddings)
    inputs = tuple(Input(*pair) for pair in zip(SCORE.inputs, vectors, strict=True))
    scored = yield from infer(session, Call(SCORE, inputs, {"V": 1, "P": len(bank)}), deadline)
    change = yield from _changed_release(session, volume, _provenance(image), deadline)
    if change is not None:
        return change
    stages = {
        "pack": image.pack_ms,
        "image": image.infer_ms,
        "texts": (described - encoded) * 1000,
        "score": scored.infer_ms,
    }
    names = tuple(entry.finding for entry in bank)
    return _scores(image, scored, names, _timed(stages, started))


def encode_image(session: Session, volume: Volume) -> Flow[NDArray[np.float32]]:
    """Embed a volume: (E,) float32 of length 1."""
    call = Call(IMAGE_EMBEDDING_ENSEMBLE, _scan(volume))
    answer = yield from _infer_scan(session, volume, call, Deadline(session.timeout_s))
    _provenance(answer)  # a server of another contract is refused here, too
    embedding: NDArray[np.float32] = _float32(answer, "IMAGE_EMBEDDING")[0]
    return embedding


def encode_text(session: Session, texts: Sequence[str]) -> Flow[NDArray[np.float32]]:
    """Embed texts: (N, E) float32, each of length 1, in the order given."""
    listed = _listed(texts, "texts")
    for index, text in enumerate(listed):
        _checked_text(f"texts[{index}]", text)
    return (yield from _text_embeddings(session, listed, {}, Deadline(session.timeout_s)))


def _infer_scan(session: Session, volume: Volume, call: Call, deadline: Deadline) -> Flow[Answer]:
    """Run an ensemble on a scan.

    A scan that is too thin for the model is the caller's error, but only the server knows its grid:
    if it failed, its PROVENANCE is asked.
    """
    try:
        return (yield from infer(session, call, deadline))
    except ServerError as error:
        raise (yield from _too_thin(session, volume, error, deadline)) from error


def _too_thin(
    session: Session, volume: Volume, error: ServerError, deadline: Deadline
) -> Flow[CTClipError]:
    try:
        answer = yield from infer(session, Call(CHECK, _scan(volume)[1:]), deadline)
        geometry, _ = _provenance(answer).geometry()
    except CTClipError:
        return error
    for axis, voxels, edge, target in zip(
        "zxy", volume.voxels.shape, volume.spacing_mm, geometry.target_spacing_mm, strict=True
    ):
        if int(voxels * (edge / target)) < 1:  # as the model resamples
            return InvalidInput(
                f"volume: {voxels} voxels of {edge:g} mm along {axis} are less than one of the "
                f"model's, which has {target:g} mm.",
                "Take a series that covers the chest; a single slice cannot be scored.",
            )
    return error


def _text_embeddings(
    session: Session, texts: Sequence[str], sizes: dict[str, int], deadline: Deadline
) -> Flow[NDArray[np.float32]]:
    pieces = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        inputs = (Input(TEXT, strings(some)),)
        call = Call(TEXT_EMBEDDING_ENSEMBLE, inputs, {**sizes, "N": len(some)})
        answer = yield from infer(session, call, deadline)
        piece = _float32(answer, "TEXT_EMBEDDING")
        sizes = {"E": piece.shape[1]}
        pieces.append(piece)
    embeddings: NDArray[np.float32] = np.concatenate(pieces)
    return embeddings


def _without_classfine(session: Session, error: NotReady) -> Flow[NotReady]:
    """Say why there is no `ctclip_classify`, where the rest of the repository is there."""
    if not (yield from is_ready(session, IMAGE_EMBEDDING_ENSEMBLE.name)):
        return error
    return NotReady(
        f"{session.endpoint.address}: the server has no {CLASSIFY.name}.",
        "Its repository was exported without a trained head: export it again with ctclip export "
        "--classfine FILE or --head FILE, or leave classify (--classify) out.",
    )


def _changed_release(
    session: Session, volume: Volume, first: Provenance, deadline: Deadline
) -> Flow[Unavailable | None]:
    """Say why an answer has to be refused that was put together from two releases.

    Texts and scores carry no PROVENANCE, and a release may be promoted between two calls. The model
    that states it is asked last: a promotion loads all models before the ensembles are switched,
    so every order of events in which the calls met two releases ends with another one than `first`.
    """
    answer = yield from infer(session, Call(CHECK, _scan(volume)[1:]), deadline)
    last = _provenance(answer)
    if last.release == first.release:
        return None
    return Unavailable(
        f"{session.endpoint.address}: the server changed from release {first.release} to "
        f"{last.release} between the calls of one request.",
        "Call again when the promotion is over; the scores of two releases were not mixed.",
    )


def _scan(volume: Volume) -> tuple[Input, ...]:
    if not isinstance(volume, Volume):
        raise InvalidInput(
            f"volume: got {type(volume).__name__}, expected a Volume.",
            "Make one with read_volume(path) or Volume.from_array(voxels, spacing_mm, rescale).",
        )
    arrays = volume.tensors()
    return tuple(Input(tensor, arrays[tensor.name]) for tensor in PREPROCESS.inputs)


def _listed(items: Sequence[T], field: str) -> list[T]:
    if isinstance(items, str | bytes):
        raise InvalidInput(f"{field}: got one text, expected a list of them.", "Put it in a list.")
    try:
        listed = list(items)
    except TypeError as error:
        raise InvalidInput(f"{field}: got {type(items).__name__}, expected a list.") from error
    if not listed:
        raise InvalidInput(f"{field}: the list is empty.", "Give at least one.")
    return listed


def _finding(index: int, prompt: Prompt) -> Finding:
    if isinstance(prompt, Finding):
        entry = prompt
    elif isinstance(prompt, tuple | list) and len(prompt) == 2:
        entry = Finding(prompt[0], prompt[0], prompt[1])
    else:
        raise InvalidInput(
            f"prompts[{index}]: got {type(prompt).__name__}, expected a pair of sentences.",
            'For instance ("Nodule is present.", "Nodule is not present."), or a Finding.',
        )
    for name in ("present", "absent"):
        text = getattr(entry, name)
        _checked_text(f"prompts[{index}], {name}", text)
        if not text.strip():
            raise InvalidInput(f"prompts[{index}], {name}: the sentence is empty.")
    check_differ(f"prompts[{index}]", entry.present, entry.absent)
    return entry


def _checked_text(field: str, text: object) -> None:
    if not isinstance(text, str):
        raise InvalidInput(f"{field}: got {type(text).__name__}, expected text.")


def _provenance(answer: Answer) -> Provenance:
    return Provenance.from_json(cast(bytes, answer.arrays["PROVENANCE"][0]))


def _float32(answer: Answer, name: str) -> NDArray[np.float32]:
    return cast(NDArray[np.float32], answer.arrays[name])


def _check_count(answer: Answer, field: str, names: tuple[str, ...]) -> None:
    count = answer.arrays["PROBABILITIES"].shape[1]
    if len(names) != count:
        raise ServerError(
            f"PROVENANCE names {len(names)} {field}, the answer scores {count}.", _MIXED
        )


def _probabilities(answer: Answer) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = _float32(answer, "PROBABILITIES")[0]
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ServerError("PROBABILITIES: the answer leaves the range 0…1.", _BROKEN)
    return probabilities


def _scores(
    image: Answer, scored: Answer, findings: tuple[str, ...], timings_ms: dict[str, float]
) -> Scores:
    return Scores(
        findings=findings,
        probabilities=_probabilities(scored),
        logits=_float32(scored, "LOGITS")[0],
        image_embedding=_float32(image, "IMAGE_EMBEDDING")[0],
        provenance=_provenance(image),
        timings_ms=timings_ms,
        transport=image.transport,
        request_id=image.request_id,
    )


def _stages(answer: Answer) -> dict[str, float]:
    return {"pack": answer.pack_ms, "infer": answer.infer_ms}


def _timed(stages: dict[str, float], started: float) -> dict[str, float]:
    return {**stages, "total": (time.perf_counter() - started) * 1000}
