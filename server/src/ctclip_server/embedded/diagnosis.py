"""What Triton's log says about a start that failed, in a line each."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LOAD_FAILED = re.compile(r"failed to load '(?P<model>[^']+)' version \d+: (?P<why>.*)")
_POLL_FAILED = re.compile(r"Poll failed for model directory '(?P<model>[^']+)': (?P<why>.*)")
_ENSEMBLE_FAILED = re.compile(r"ensemble '?(?P<model>[^' ]+)'? (?P<why>depends on|contains) .*")
_STUB_FAILED = re.compile(r"Failed to preinitialize Python stub: (?P<why>.*)")
_TEXT_FORMAT = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<why>.*)")
_PORT_TAKEN = re.compile(r"Socket '[^']*:(?P<port>\d+)' already in use")
_ERROR = re.compile(r"^(?:E\d{4} [^\]]*\]|error:|Error:) *(?P<text>.*)$")
# Triton prefixes its status, the stub the exception's class; neither helps whoever reads it.
_PREFIXES = re.compile(r"^(?:Internal|Invalid argument|Not found|Unavailable): ", re.IGNORECASE)
_EXCEPTION = re.compile(r"^(?:[\w.]*TritonModelException|[\w.]*TritonError): ")
# Said at every start on a machine without a GPU.
_HARMLESS = re.compile(
    r"CudaDriverHelper has not been initialized|Failed to initialize NVML|"
    r"unable to create stream for \S+: CUDA driver version is insufficient"
)


@dataclass(frozen=True)
class Diagnosis:
    """Reasons found in a log.

    models: model -> why it does not load. taken_port: a port that another process holds.
    errors: the other error lines, oldest first.
    """

    models: dict[str, str]
    taken_port: int | None
    errors: tuple[str, ...]


def diagnose(log: str) -> Diagnosis:
    """Read the reasons out of Triton's log (its default format)."""
    models: dict[str, str] = {}
    ensembles: dict[str, str] = {}
    errors: list[str] = []
    taken_port = None
    config_error = ""
    for line in log.splitlines():
        if match := _TEXT_FORMAT.search(line):
            config_error = match["why"].strip()
        elif match := _LOAD_FAILED.search(line):
            models.setdefault(match["model"], one_line(match["why"]))
        elif match := _POLL_FAILED.search(line):
            reason = one_line(match["why"])
            if config_error:
                reason = f"{reason}: {config_error}"
            models.setdefault(match["model"], reason)
            config_error = ""
        elif match := _PORT_TAKEN.search(line):
            taken_port = int(match["port"])
        elif match := _STUB_FAILED.search(line):
            errors.append(one_line(match["why"]))
        elif match := _ERROR.match(line):
            text = one_line(match["text"])
            if ensemble := _ENSEMBLE_FAILED.search(text):
                ensembles.setdefault(ensemble["model"], one_line(ensemble[0]))
            elif text and not _HARMLESS.match(text):
                errors.append(text)
    # An ensemble that fails only for one of its steps says nothing that the step has not said.
    if not models:
        models = ensembles
    return Diagnosis(models, taken_port, tuple(errors))


def one_line(text: str) -> str:
    """One readable line of a quoted, escaped message; a Python traceback's end is cut off."""
    text = text.strip().removesuffix('"').removeprefix('"')
    text = text.replace("\\n", "\n").replace('\\"', '"').split("\n\nAt:")[0]
    text = " ".join(text.split())
    return _EXCEPTION.sub("", _PREFIXES.sub("", text))
