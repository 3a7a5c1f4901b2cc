"""A running server: is it there, is it whole, does it answer, and where does the time go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ctclip_client.contract import CHECK, Ensemble
from ctclip_client.doctor.configs import (
    KNOWN,
    OPTIONAL,
    differences,
    embedding_size,
    pinned_versions,
)
from ctclip_client.doctor.health_check import (
    Answers,
    agreement_checks,
    health_checks,
    provenance_checks,
    refusal_check,
)
from ctclip_client.doctor.inspectors import DoctorOptions
from ctclip_client.doctor.report import Check, failed, judged, not_run, passed
from ctclip_client.doctor.self_check import server_check
from ctclip_client.doctor.subject import Subject
from ctclip_client.doctor.triton import Triton
from ctclip_client.errors import ServiceError
from ctclip_client.transport.connection import Connection
from ctclip_client.transport.steps import T

_READY = "READY"
_LOAD = "Look into the server's log; ctclip doctor DIR checks its repository."
_NS_PER_MS = 1e6
_WAYS = {"grpc": "in the gRPC message", "shared_memory": "through system shared memory"}


def inspect(subject: Subject, options: DoctorOptions) -> Iterator[Check]:
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
        yield _answer("ready", lambda: _ready(triton))
        yield _answer("version", lambda: _version(triton))
        ready: dict[str, bool] = {}
        yield from _models(triton, ready)
        before = _answer("latency", triton.times)
        answers = Answers()
        with options.stages.stage("Send a phantom through every ensemble"):
            yield from health_checks(triton, ready, answers)
        after = _answer("latency", triton.times)
        yield from agreement_checks(answers)
        if ready.get(CHECK.name):
            yield refusal_check(triton)
        else:
            yield not_run("refusal", f"{CHECK.name} is not ready.")
        yield server_check(triton, ready, answers, options.repository)
        yield from provenance_checks(answers)
        if answers.transport:
            yield passed("transport", f"volumes travel {_WAYS[answers.transport]}",
                         kind=answers.transport)  # fmt: skip
        else:
            yield not_run("transport", "No volume got through.")
        yield from _configs(triton, ready, answers)
        if isinstance(before, Check):
            yield before
        elif isinstance(after, Check):
            yield after
        else:
            yield from _latencies(before, after)


def _answer(name: str, ask: Callable[[], T], about: str = "") -> T | Check:
    """What the server says, or a check that is NOT RUN where it keeps that to itself."""
    try:
        return ask()
    except ServiceError as error:
        return not_run(name, error.cause, error.remedy, about)


def _ready(triton: Triton) -> Check:
    if triton.is_ready():
        return passed("ready", "the server says that all its models are")
    return failed("ready", "the server says that it is not: a model did not load", _LOAD)


def _version(triton: Triton) -> Check:
    metadata = triton.metadata()
    return passed(
        "version", f"{metadata.name} {metadata.version}",
        server=metadata.name, version=metadata.version, extensions=list(metadata.extensions),
    )  # fmt: skip


def _models(triton: Triton, ready: dict[str, bool]) -> Iterator[Check]:
    """Readiness by the index, and by asking each model: one may be wrong where the other is not.

    Fills `ready`: model -> whether the server has it ready, for all that it has.
    """
    index = _answer("index", triton.index)
    indexed = not isinstance(index, Check)
    states: dict[str, list[Any]] = defaultdict(list)
    if isinstance(index, Check):
        yield index
    else:
        for entry in index:
            states[entry.name].append(entry)
    for name in KNOWN:
        found = states.get(name, [])
        if indexed and not found and name in OPTIONAL:
            continue
        try:
            answers = triton.is_model_ready(name)
        except ServiceError as error:
            ready[name] = False
            yield failed("model", error.cause, error.remedy, name)
            continue
        if found or answers:
            ready[name] = answers
        elif name in OPTIONAL:
            continue
        yield _model(name, found, answers=answers, indexed=indexed)
    others = sorted(states.keys() - KNOWN.keys())
    if others:
        told = f"models that are not of the contract: {', '.join(others)}"
        yield passed("others", told, models=others)


def _model(name: str, found: list[Any], *, answers: bool, indexed: bool) -> Check:
    """found: entries of the index, one a version. answers: whether the model says it is ready."""
    if indexed and not found:
        return failed("model", "the server has no model of this name",
                      "Serve a whole repository made by ctclip export.", name)  # fmt: skip
    versions = [entry.version for entry in found if entry.state == _READY]
    values = {"ready": answers, "versions": versions}
    if not answers:
        reasons = "; ".join(
            f"version {entry.version or '?'} is {entry.state or 'not loaded'}"
            f"{': ' if entry.reason else ''}{entry.reason}"
            for entry in found
        )
        return failed("model", f"not ready ({reasons or 'no reason given'})", _LOAD, name, **values)
    if indexed and not versions:
        return failed("model", "says that it is ready, the index says that it is not", _LOAD, name,
                      **values)  # fmt: skip
    return passed("model", f"ready, version {', '.join(versions) or 'unknown'}", name, **values)


def _configs(triton: Triton, ready: Mapping[str, bool], answers: Answers) -> Iterator[Check]:
    """What the server has in force, against the contract and the release's sizes."""
    configs = {}
    for name in (name for name, is_ready in ready.items() if is_ready):
        config = _answer("config", partial(triton.config, name), name)
        if isinstance(config, Check):
            yield config
        else:
            configs[name] = config
    sizes = {**embedding_size(configs), **answers.sizes()}
    for name, config in configs.items():
        found = differences(config, KNOWN[name], sizes, variant=True)
        yield judged("config", found, "as the contract says",
                     "Serve the repository of the release.", name, differences=found)  # fmt: skip
    pins = {
        name: pinned_versions(config)
        for name, config in configs.items()
        if isinstance(KNOWN[name], Ensemble)
    }
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


_Times = Mapping[tuple[str, str], Mapping[str, int]]


def _latencies(before: _Times, after: _Times) -> Iterator[Check]:
    for name in KNOWN:
        for (model, version), now in sorted(after.items()):
            spent = {each: n - before.get((model, version), {}).get(each, 0)
                     for each, n in now.items()}  # fmt: skip
            if model == name and spent["requests"] > 0:
                yield _latency(f"{model}/{version}", **spent)


def _latency(about: str, *, requests: int, **phases_ns: int) -> Check:
    ms = {phase: round(ns / requests / _NS_PER_MS, 3) for phase, ns in phases_ns.items()}
    text = f"{ms['total']:.1f} ms each"
    if ms["infer"]:
        text += (
            f" (queue {ms['queue']:.1f}, input {ms['input']:.1f}, compute {ms['infer']:.1f}, "
            f"output {ms['output']:.1f})"
        )
    return passed("latency", f"{text}, {requests} requests", about, requests=requests,
                  **{f"{phase}_ms": each for phase, each in ms.items()})  # fmt: skip
