"""Predictions and labels joined by name; what could not be joined is kept, too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ctclip_analysis.evaluate.same_scans import digests_of
from ctclip_analysis.label_names import JOINED, plain
from ctclip_analysis.labels import read_labels
from ctclip_analysis.predictions import Predictions
from ctclip_analysis.scan_names import Patients, join_names, reconstruction
from ctclip_analysis.wording import first_of
from ctclip_client.errors import InvalidInput

Floats = NDArray[np.float64]
GROUPS = ("reconstruction", "scan")
_MEAN_DIGITS = 12
"""(0.1 + 0.1 + 0.1) / 3 is more than 0.1 in float64: without rounding the order of the sum would
break ties, and AP would be another one."""


@dataclass(frozen=True)
class Mismatches:
    """What is on one side only, by name.

    unknown_labels: finding -> how many cases have no value for it. joined: finding that is compared
    with the highest of several predicted ones -> these.
    """

    failed_scans: tuple[str, ...] = ()
    scans_without_labels: tuple[str, ...] = ()
    labels_without_scans: tuple[str, ...] = ()
    findings_without_labels: tuple[str, ...] = ()
    label_columns_without_findings: tuple[str, ...] = ()
    unknown_labels: Mapping[str, int] = field(default_factory=dict)
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    other_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Finding -> the columns of another name that it was read from."""


@dataclass(frozen=True, eq=False)
class Cases:
    """What is judged, N cases in the order of their names.

    names: as the labels have them, or of scans where reconstructions were joined. probabilities:
    (N, F). labels: (N, F), 1, 0, or NaN where unknown. files: how many predictions they come from.
    ungrouped: how many cases have names that do not say which scan they are of; 0 where nobody
    asked.
    """

    names: tuple[str, ...]
    findings: tuple[str, ...]
    probabilities: Floats
    labels: Floats
    patients: Patients
    group: str
    files: int
    labels_sha256: str
    mismatches: Mismatches
    ungrouped: int = 0

    @property
    def digests(self) -> tuple[str, ...]:
        """Which scans these are, without their names: the same for the same scans, whatever has
        predicted them, however they are grouped."""
        return digests_of(self.names)


def join(
    predictions: Predictions, labels_path: Path, group: str = GROUPS[0], *,
    labels_content: bytes | None = None,
) -> Cases:  # fmt: skip
    """Put labels beside predictions.

    Args:
        group: "reconstruction": each file is a case; "scan": the reconstructions of a scan are one,
            with the mean of their probabilities.
        labels_content: of the file, where it has been read.

    Raises:
        InvalidInput: no scan or no finding is on both sides, names that may mean two, or
            reconstructions of one scan whose labels differ.
    """
    parts = {
        name: those for name, those in JOINED.items() if set(those) <= set(predictions.findings)
    }
    extra = [name for name in parts if name not in predictions.findings]
    labels = read_labels(labels_path, (*predictions.findings, *extra), content=labels_content)
    findings = labels.findings
    if labels.sha256 == predictions.sha256:
        raise InvalidInput(
            f"--labels: {labels_path}: has the content of --predictions.",
            "Labels that are judged by themselves are always right.",
        )
    if not findings:
        raise InvalidInput(
            f"--labels: {labels_path}: none of its columns is one of the findings that were "
            f"predicted ({first_of(predictions.findings)}).",
            f"Its columns: {first_of(labels.unused) or 'none'}.",
        )
    joined = join_names(
        predictions.scans, labels.scans, predictions.path, f"--labels: {labels_path}"
    )
    both = sorted(
        zip(joined.rows, joined.scans, strict=True), key=lambda pair: labels.scans[pair[0]]
    )
    rows, places = (list(side) for side in zip(*both, strict=True))
    cases = Cases(
        tuple(labels.scans[row] for row in rows),
        findings,
        _on(findings, predictions, parts)[places],
        labels.values[rows],
        labels.patients_of(rows),
        group,
        len(rows),
        labels.sha256,
        Mismatches(
            tuple(scan for scan, _ in predictions.failed),
            joined.scans_alone,
            joined.rows_alone,
            tuple(name for name in predictions.findings if name not in findings),
            labels.unused,
            {},
            {name: those for name, those in parts.items() if name in findings and name in extra},
            {
                finding: columns
                for finding, columns in labels.columns.items()
                if {plain(column) for column in columns} != {plain(finding)}
            },
        ),
    )
    return _with_unknown(_by_scan(cases) if group == "scan" else cases)


def _on(
    findings: Sequence[str], predictions: Predictions, parts: Mapping[str, Sequence[str]]
) -> Floats:
    columns = {name: predictions.probabilities[:, at]
               for at, name in enumerate(predictions.findings)}  # fmt: skip
    for name, those in parts.items():
        columns.setdefault(name, np.max([columns[part] for part in those], axis=0))
    return np.stack([columns[name] for name in findings], axis=1)


def _by_scan(cases: Cases) -> Cases:
    """One case for the reconstructions of a scan: the mean of their probabilities.

    They have one report, hence one label; where labels differ, one of them is wrong.
    """
    known = [reconstruction(name) for name in cases.names]
    ungrouped = known.count(None)
    if ungrouped == len(known):
        raise InvalidInput(
            f"--group scan: no name tells which scan it is of ('{cases.names[0]}').",
            "Names as CT-RATE's do (valid_1_a_2); otherwise leave --group out.",
        )
    places = defaultdict(list)
    for place, (name, found) in enumerate(zip(cases.names, known, strict=True)):
        places[name if found is None else found.scan].append(place)
    names = sorted(places)
    labels = np.stack([_agreed(cases, name, places[name]) for name in names])
    means = np.stack([cases.probabilities[places[name]].mean(axis=0) for name in names])
    means = means.round(_MEAN_DIGITS)
    patients = replace(
        cases.patients, ids=tuple(cases.patients.ids[places[name][0]] for name in names)
    )
    return replace(
        cases, names=tuple(names), probabilities=means, labels=labels, patients=patients,
        ungrouped=ungrouped,
    )  # fmt: skip


def _agreed(cases: Cases, scan: str, places: Sequence[int]) -> Floats:
    """The labels of a scan (F,): what its reconstructions say that say anything."""
    values = cases.labels[places]
    present, absent = (values == 1).any(axis=0), (values == 0).any(axis=0)
    if (present & absent).any():
        finding = cases.findings[int(np.argmax(present & absent))]
        raise InvalidInput(
            f"--group scan: reconstructions of {scan} have different labels for '{finding}'.",
            "They have one report, so one of them is wrong: mend the file, or leave --group out.",
        )
    if len({cases.patients.ids[place] for place in places}) > 1:
        raise InvalidInput(f"--group scan: {scan} is of several patients.", "Mend the labels.")
    return np.where(present, 1.0, np.where(absent, 0.0, np.nan))


def _with_unknown(cases: Cases) -> Cases:
    counts = np.isnan(cases.labels).sum(axis=0).tolist()
    unknown = {name: count for name, count in zip(cases.findings, counts, strict=True) if count}
    return replace(cases, mismatches=replace(cases.mismatches, unknown_labels=unknown))
