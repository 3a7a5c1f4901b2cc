"""A running server: is it there, is it whole, does it answer, and where does the time go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ctclip_client.contract import CHECK, Ensemble
from ctclip_client.doctor.canary import (
    Canary,
    agreement_checks,
    provenance_checks,
    refusal_check,
    run_canaries,
)
from ctclip_client.doctor.configs import (
    KNOWN,
    OPTIONAL,
    REQUIRED,
    differences,
    embedding_size,
    pinned_versions,
)
from ctclip_client.doctor.inspectors import Options
from ctclip_client.doctor.report import Check, failed, not_run, passed
from ctclip_client.doctor.self_check import server_check
from ctclip_client.doctor.subject import Subject
from ctclip_client.doctor.triton import Spent, Triton
from ctclip_client.errors import CTClipError, ServiceError
from ctclip_client.transport.connection import Connection

_READY = "READY"
_LOAD = "Look into the server's log; ctclip doctor DIR checks its repository."
_NS_PER_MS = 1e6


def inspect(subject: Subject, options: Options) -> Iterator[Check]:
    """Examine a server.

    Raises:
        Unavailable, DeadlineExceeded: nobody answers at the address.
        InvalidInput: the address is none, or a header cannot be sent.
    """
    with Triton(options.connection or Connection(subject.address)) as triton:
        if triton.is_live():
            yield passed("live", f"{subject.address} answers")
        else:
            yield failed("live", f"{subject.address} answers that it is not live", _LOAD)
        yield _ready(triton)
        yield _version(triton)
        states = _states(triton)
        yield from states.checks
        yield from _transports_and_canaries(triton, states.ready, options)


@dataclass(frozen=True)
class _States:
    """ready: model -> whether the server has it ready, for all that it has."""

    ready: Mapping[str, bool]
    checks: list[Check]


def _ready(triton: Triton) -> Check:
    try:
        ready = triton.is_ready()
    except ServiceError as error:
        return not_run("ready", error.cause, error.remedy)
    if ready:
        return passed("ready", "the server says that all its models are")
    return failed("ready", "the server says that it is not: a model did not load", _LOAD)


def _version(triton: Triton) -> Check:
    try:
        metadata = triton.metadata()
    except ServiceError as error:
        return not_run("version", error.cause, error.remedy)
    return passed(
        "version", f"{metadata.name} {metadata.version}",
        server=metadata.name, version=metadata.version, extensions=list(metadata.extensions),
    )  # fmt: skip


def _states(triton: Triton) -> _States:
    """Readiness by the index, and by asking each model: one may lie where the other does not."""
    checks: list[Check] = []
    states: dict[str, list[tuple[str, str, str]]] = {}
    try:
        for entry in triton.index():
            states.setdefault(entry.name, []).append((entry.version, entry.state, entry.reason))
    except ServiceError as error:
        checks.append(not_run("index", error.cause, error.remedy))
        indexed = False
    else:
        indexed = True
    ready: dict[str, bool] = {}
    for name in (*REQUIRED, *OPTIONAL):
        if indexed and name not in states and name in OPTIONAL:
            continue
        found = states.get(name, [])
        try:
            answers = triton.is_model_ready(name)
        except ServiceError as error:
            checks.append(failed("model", error.cause, error.remedy, name))
            ready[name] = False
            continue
        if not answers and not found and name in OPTIONAL:
            continue
        check = _model(name, found, answers=answers, indexed=indexed)
        checks.append(check)
        if found or answers:
            ready[name] = answers
    strangers = sorted(states.keys() - KNOWN.keys())
    if strangers:
        checks.append(
            passed(
                "others",
                f"models that are not of the contract: {', '.join(strangers)}",
                models=strangers,
            )
        )
    return _States(ready, checks)


def _model(name: str, found: list[tuple[str, str, str]], *, answers: bool, indexed: bool) -> Check:
    if indexed and not found:
        return failed("model", "the server has no model of this name",
                      "Serve a whole repository made by ctclip export.", name)  # fmt: skip
    versions = [version for version, state, _ in found if state == _READY]
    values = {"ready": answers, "versions": versions}
    if not answers:
        reasons = "; ".join(
            f"version {version or '?'} is {state or 'not loaded'}{': ' if reason else ''}{reason}"
            for version, state, reason in found
        )
        return failed("model", f"not ready ({reasons or 'no reason given'})", _LOAD, name, **values)
    if indexed and not versions:
        return failed("model", "says that it is ready, the index says that it is not", _LOAD, name,
                      **values)  # fmt: skip
    return passed("model", f"ready, version {', '.join(versions) or 'unknown'}", name, **values)


def _transports_and_canaries(
    triton: Triton, ready: Mapping[str, bool], options: Options
) -> Iterator[Check]:
    before = _spent(triton)
    canary = Canary()
    with options.stages.stage("Send a phantom through every ensemble"):
        yield from run_canaries(triton, ready, canary)
    after = _spent(triton)
    yield from agreement_checks(canary)
    if ready.get(CHECK.name):
        yield refusal_check(triton)
    else:
        yield not_run("refusal", f"{CHECK.name} is not ready.")
    yield server_check(triton, ready, canary, options.repository)
    yield from provenance_checks(canary)
    if canary.transport:
        way = {"grpc": "in the gRPC message", "shared_memory": "through system shared memory"}
        yield passed("transport", f"volumes travel {way[canary.transport]}",
                     kind=canary.transport)  # fmt: skip
    else:
        yield not_run("transport", "No volume got through.")
    yield from _configs(triton, ready, canary)
    yield from _latencies(before, after)


def _configs(triton: Triton, ready: Mapping[str, bool], canary: Canary) -> Iterator[Check]:
    """What the server has in force, against the contract and the release's sizes."""
    configs = {}
    for name in (name for name, is_ready in ready.items() if is_ready):
        try:
            configs[name] = triton.config(name)
        except ServiceError as error:
            yield not_run("config", error.cause, error.remedy, name)
    sizes = {**embedding_size(configs), **canary.sizes()}
    pins: dict[str, dict[str, int]] = {}
    for name, config in configs.items():
        found = differences(config, KNOWN[name], sizes, free_batch=True)
        if found:
            yield failed("config", "; ".join(found),
                         "Serve the repository of the release.", name,
                         differences=found)  # fmt: skip
        else:
            yield passed("config", "as the contract says", name)
        if isinstance(KNOWN[name], Ensemble):
            pins[name] = pinned_versions(config)
    versions = sorted({version for steps in pins.values() for version in steps.values()})
    if not pins:
        yield not_run("pins", "No ensemble's config could be read.")
    elif len(versions) == 1 and versions[0] > 0:
        yield passed("pins", f"every step of every ensemble is pinned to version {versions[0]}",
                     version=versions[0])  # fmt: skip
    else:
        yield failed("pins", f"steps are pinned to versions {versions} (-1: whatever is newest)",
                     "Promote one release (ctclip promote), or export again.",
                     pins=pins)  # fmt: skip


def _spent(triton: Triton) -> Mapping[tuple[str, str], Spent] | CTClipError:
    try:
        return triton.spent()
    except ServiceError as error:
        return error


def _latencies(
    before: Mapping[tuple[str, str], Spent] | CTClipError,
    after: Mapping[tuple[str, str], Spent] | CTClipError,
) -> Iterator[Check]:
    if isinstance(before, CTClipError) or isinstance(after, CTClipError):
        error = before if isinstance(before, CTClipError) else after
        if isinstance(error, CTClipError):
            yield not_run("latency", error.cause, error.remedy)
        return
    for name in KNOWN:
        for (model, version), now in sorted(after.items()):
            spent = now.since(before.get((model, version), Spent()))
            if model == name and spent.count > 0:
                yield _latency(f"{model}/{version}", spent)


def _latency(about: str, spent: Spent) -> Check:
    each = spent.count * _NS_PER_MS
    values = {
        "requests": spent.count,
        "total_ms": round(spent.total_ns / each, 3),
        "queue_ms": round(spent.queue_ns / each, 3),
        "input_ms": round(spent.input_ns / each, 3),
        "infer_ms": round(spent.infer_ns / each, 3),
        "output_ms": round(spent.output_ns / each, 3),
    }
    text = f"{values['total_ms']:.1f} ms each"
    if spent.infer_ns:
        text += (
            f" (queue {values['queue_ms']:.1f}, input {values['input_ms']:.1f}, compute "
            f"{values['infer_ms']:.1f}, output {values['output_ms']:.1f})"
        )
    return passed("latency", f"{text}, {spent.count} requests", about, **values)
