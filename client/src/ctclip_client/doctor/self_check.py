"""The self-check of a release: in a repository, and answered by a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ctclip_client.contract import CHECK, VISION, ZERO_SHOT
from ctclip_client.doctor.health_check import Answers
from ctclip_client.doctor.report import Check, failed, judged, not_run, warned
from ctclip_client.doctor.triton import Triton
from ctclip_client.errors import CTClipError, InvalidInput, ServerError, ServiceError, Unreadable
from ctclip_client.release.records import PROVENANCE, read_model_record
from ctclip_client.release.repository import ModelFolder
from ctclip_client.release.self_check import FILE, SelfCheck, precision_of_config, read_self_check
from ctclip_client.transport.infer import Answer, Call
from ctclip_client.transport.wire import Input

_NAME = "self-check"
_EXPORT_AGAIN = "Export the repository again (ctclip export)."
_WRONG = (
    "It does not compute what the checkpoint does. Serve it by another config or on another "
    "machine, or export it in another precision."
)


def file_checks(model: ModelFolder) -> Iterator[Check]:
    """The files of `ctclip_check`, version by version."""
    for number, version in sorted(model.versions.items()):
        about = f"{CHECK.name}/{number}"
        check = _read(version.path, about)
        if isinstance(check, Check):
            yield check
            continue
        try:
            release = version.record.release.name
        except CTClipError as error:
            yield not_run(_NAME, error.cause, error.remedy, about)
            continue
        pairs = len(check.prompts) // 2
        other = check.release != release
        yield judged(
            _NAME, [f"of release {check.release}, beside files of {release}"] if other else [],
            f"a phantom, {pairs} pairs of prompts, the reference's answer", _EXPORT_AGAIN, about,
        )  # fmt: skip


def _read(folder: Path, about: str = "") -> SelfCheck | Check:
    try:
        return read_self_check(folder / FILE)
    except FileNotFoundError:
        return warned(
            _NAME, f"{folder} has no {FILE}: an older ctclip exported it; nothing to compare "
            "answers with", _EXPORT_AGAIN, about,
        )  # fmt: skip
    except ValueError as error:
        return failed(_NAME, f"{folder}: {error}", _EXPORT_AGAIN, about)


def server_check(
    triton: Triton, ready: Mapping[str, bool], answers: Answers, repository: Path | None
) -> Check:
    """Compare a server's answer with that of the reference, which the repository recorded.

    Raises: Unreadable for a damaged record: nothing is known of the server by it.
    """
    if repository is None:
        return not_run(_NAME, "There is nothing to compare the answers with.",
                       "Give the repository that it serves: --repository DIR.")  # fmt: skip
    if not ready.get(ZERO_SHOT.name) or answers.provenance is None:
        return not_run(_NAME, f"{ZERO_SHOT.name} is not ready, or its release is unknown.")
    check = _recorded(repository, answers.provenance.release)
    if isinstance(check, Check):
        return check
    try:
        config = triton.config(VISION.name)
        answer = triton.infer(_call(check))
    except (ServerError, InvalidInput) as error:
        return failed(_NAME, error.cause, error.remedy or _WRONG)
    except ServiceError as error:  # nothing was compared, or it is unknown by which bounds
        return not_run(_NAME, error.cause, error.remedy)
    return _judged(check, answer, config)


def _recorded(repository: Path, release: str) -> SelfCheck | Check:
    """The self-check of a release, or why there is none to compare with."""
    names = []
    for path in sorted((repository / CHECK.name).glob(f"[0-9]*/{PROVENANCE}")):
        try:
            names.append(read_model_record(path.parent).release.name)
        except CTClipError:
            continue  # ctclip doctor DIR says what is wrong with it
        if names[-1] == release:
            found = _read(path.parent)
            if isinstance(found, Check) and found.verdict == "FAIL":
                raise Unreadable(f"--repository: {found.detail}.", found.remedy)
            return found
    return failed(
        _NAME, f"the server answers with release {release}, the repository has "
        f"{', '.join(names) or 'none'}", "Give the repository that it serves.",
    )  # fmt: skip


def _judged(check: SelfCheck, answer: Answer, config: Any) -> Check:
    precision = precision_of_config(check.precision, config)
    found = check.judge(answer.arrays, precision)
    values = {
        "precision": precision, "backend": config.backend, "cosine": found.cosine,
        "largest_logit_change": found.logit, "largest_probability_change": found.probability,
    }  # fmt: skip
    by = f"{precision} ({config.backend})"
    problems = [f"{'; '.join(found.problems)}, by the bounds of {by}"] if found.problems else []
    return judged(_NAME, problems, f"the reference's answer in {by}: {found}", _WRONG, **values)


def _call(check: SelfCheck) -> Call:
    arrays = check.inputs()
    inputs = tuple(Input(tensor, arrays[tensor.name]) for tensor in ZERO_SHOT.inputs)
    return Call(ZERO_SHOT, inputs, {"P": len(check.prompts) // 2})
