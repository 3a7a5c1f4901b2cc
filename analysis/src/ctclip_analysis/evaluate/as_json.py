"""A finished evaluation as an object of JSON, with null for what is not defined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ctclip_analysis.evaluate import BARS
from ctclip_analysis.evaluate.metrics import FindingScores
from ctclip_analysis.evaluate.resampling import LEVEL, ROUNDS, SEED
from ctclip_analysis.evaluate.result import (
    MISMATCH_TITLES,
    Against,
    Evaluation,
    method_lines,
    undefined_lines,
    warnings,
)
from ctclip_analysis.predictions import Predictions


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, with null for what is not defined."""
    cases, points, fitted = evaluation.cases, evaluation.points, evaluation.fitted
    content = {
        "kind": "ctclip-evaluation",
        "version": 1,
        "finished": evaluation.finished,
        "predictions": _side(evaluation.predictions),
        "labels": {"path": str(evaluation.labels), "sha256": cases.labels_sha256},
        "group": cases.group,
        "cases": len(cases.names),
        "files": cases.files,
        "patients": {
            "count": evaluation.patients, "told_by": cases.patients.told_by,
            "cases_alone": cases.patients.alone,
        },
        "random_weights": evaluation.random_weights,
        "bootstrap": {"rounds": ROUNDS, "seed": SEED, "level": LEVEL, "drawn": "patients"},
        "thresholds": None if points is None else {
            "from": points.origin, "method": points.method, "same_data": points.same_data,
            "scans_fitted_on": points.shared,
        },
        "fitted_thresholds": None if fitted is None else {
            "path": str(fitted[0]), "method": fitted[1].method,
            "thresholds": dict(fitted[1].thresholds),
        },
        "findings": [_finding(each) for each in evaluation.scored.findings],
        "macro": {
            name: {**asdict(figure), "findings_left_out": evaluation.scored.left_out[name]}
            for name, figure in evaluation.scored.macro.items()
        },
        "mismatches": {name: getattr(cases.mismatches, name) for name in MISMATCH_TITLES},
        "against": None if evaluation.against is None else _against(evaluation.against),
        "notes": [*warnings(evaluation), *method_lines(evaluation),
                  *undefined_lines(evaluation.scored)],
        "versions": {name: version(name) for name in ("ctclip-analysis", "numpy", "scikit-learn")},
    }  # fmt: skip
    cleaned: dict[str, Any] = without_nan(content)
    return cleaned


def _side(predictions: Predictions) -> dict[str, Any]:
    return {
        "path": str(predictions.path), "sha256": predictions.sha256,
        "scans": len(predictions.scans),
        "failed": [{"path": path, "kind": kind} for path, kind in predictions.failed],
        "replaced_rows": predictions.replaced, **asdict(predictions.origin),
    }  # fmt: skip


def _finding(scores: FindingScores) -> dict[str, Any]:
    return {
        "finding": scores.finding, "cases": scores.cases, "positives": scores.positives,
        "unknown": scores.unknown, "threshold": scores.threshold, "undefined": scores.undefined,
        **{name: asdict(figure) for name, figure in scores.figures.items()},
        "calibration": asdict(scores.calibration),
    }  # fmt: skip


def _against(against: Against) -> dict[str, Any]:
    return {
        "predictions": _side(against.predictions), "bar": against.bar, "passed": against.passed,
        **asdict(against.parity), "bars": {f"{b:g}": against.parity.reaches(b) for b in BARS},
    }  # fmt: skip


def without_nan(value: Any) -> Any:
    """The same with None for NaN, as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return value
