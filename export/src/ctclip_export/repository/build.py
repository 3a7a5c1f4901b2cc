"""From a loaded checkpoint to a complete, checked repository."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ctclip_client.contract import (
    CHECK,
    CLASSFINE,
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    FINDINGS,
    MODELS,
    PAIRS_AT_ONCE,
    PREPROCESS,
    PYTHON_MODELS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    TOKENIZER,
    VISION,
    Dimensions,
    Finding,
    Geometry,
    Model,
)
from ctclip_client.release.digest import sha256
from ctclip_client.release.parity_runs import append_run, export_run
from ctclip_client.release.self_check import FILE as SELF_CHECK
from ctclip_client.release.self_check import SelfCheck
from ctclip_client.system.progress import Stages
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.graphs import (
    classfine_graph,
    findings_graph,
    preprocess_graph,
    relevance_graph,
    score_graph,
    trace_text,
    trace_vision,
)
from ctclip_export.graphs.guards import guard_text, guard_vision
from ctclip_export.parity.check_fp32 import (
    check_classfine,
    check_preprocess,
    check_relevance,
    check_scores,
    check_text,
    check_vision,
)
from ctclip_export.parity.check_low_precision import (
    check_int8_vision,
    check_typed_text,
    check_typed_vision,
    typed_twin,
)
from ctclip_export.parity.compare import Agreement, largest
from ctclip_export.parity.reference import Reference
from ctclip_export.parity.self_check import check_graphs, make_self_check
from ctclip_export.precision.calibration import Calibration, Voxels, calibration
from ctclip_export.precision.choices import precision_of
from ctclip_export.precision.int8 import Quantiser
from ctclip_export.repository.configs import ensemble_config, model_config
from ctclip_export.repository.pbtxt import VERSION
from ctclip_export.repository.placement import check_target, staged
from ctclip_export.repository.provenance import Origin, release_record, write_provenance
from ctclip_export.repository.python_models import copy_sources
from ctclip_export.repository.variants import variant_configs
from ctclip_export.text.tokens import Ids, tokenised

ODD_TEXTS = ("", "A 5 mm nodule in the right lower lobe; no effusion!", "effusion " * 600)
"""Checked beside the prompts: nothing, punctuation and digits, and more than fits."""

OWNED = (
    *(model.name for model in MODELS + CLASSFINE_MODELS),
    *(ensemble.name for ensemble in ENSEMBLES + CLASSFINE_ENSEMBLES),
)
"""All that an export may consist of. What an earlier one left and this one lacks must go: a
classifier would judge the embeddings of another release."""


@dataclass(frozen=True)
class Export:
    """What a finished export consists of."""

    repository: Path
    release: Mapping[str, object]
    agreements: Sequence[Agreement]


def export_repository(  # noqa: PLR0913 (all but five by keyword, each one of the command's own)
    checkpoint: Checkpoint,
    text_model: TextModel,
    geometry: Geometry,
    prompts: Sequence[Finding],
    out: Path,
    *,
    precision: str = "fp32",
    calibration_folder: Path | None = None,
    stages: Stages | None = None,
) -> Export:
    """Build every graph, prove it equal to the reference, and place the repository.

    precision: of the encoders' trunks (`precision_of` each); all other graphs are float32.
    calibration_folder: CTs for int8, see `ctclip_export.precision.calibration`. Nothing appears
    in `out` before everything has passed.
    Raises: ParityError, InvalidInput for a target or scans that cannot be used.
    """
    check_target(out)
    scans = calibration(calibration_folder) if precision == "int8" else None
    with staged(out, OWNED) as staging:
        builder = _Builder(
            checkpoint, text_model, geometry, tuple(prompts), staging,
            precision=precision, scans=scans,
        )  # fmt: skip
        agreements = builder.build_graphs(stages or Stages())
        release = builder.describe(agreements)
    return Export(out, release, agreements)


class _Builder:
    def __init__(
        self,
        checkpoint: Checkpoint,
        text_model: TextModel,
        geometry: Geometry,
        prompts: tuple[Finding, ...],
        staging: Path,
        *,
        precision: str,
        scans: Calibration | None,
    ) -> None:
        self.precision = precision
        self.scans = scans
        self.ranges: dict[str, object] | None = None
        self.self_check: SelfCheck
        self.checkpoint = checkpoint
        self.model = checkpoint.model
        self.text_model = text_model
        self.geometry = geometry
        self.prompts = prompts
        self.staging = staging
        vision = self.model.config.vision
        self.dimensions = Dimensions(
            geometry.volume_shape, vision.token_shape, vision.embedding_size, len(prompts)
        )

    def build_graphs(self, stages: Stages) -> list[Agreement]:
        """Write and check all ONNX files; the scores come last, since they need embeddings."""
        temperature = float(self.model.temperature)
        with stages.stage("Preprocessing: write and check the graph"):
            path = self._save(PREPROCESS, preprocess_graph(self.geometry))
            found = check_preprocess(path, self.geometry)
        agreements, bank = self._build_text(stages)
        found += agreements
        agreements, image = self._build_vision(stages)
        found += agreements
        embedding = image["IMAGE_EMBEDDING"]
        with stages.stage("Scores: write and check the graphs"):
            score = self._save(SCORE, score_graph(temperature, bank.shape[1]))
            findings = self._save(FINDINGS, findings_graph(temperature, bank))
            found += check_scores(score, findings, self.model, embedding, bank)
            path = self._save(RELEVANCE, self._relevance_graph(bank))
            found += check_relevance(path, self.model, image, bank)
            if self.checkpoint.classifier is not None:
                head = self.checkpoint.classifier.linear
                graph = classfine_graph(head.weight.numpy(), head.bias.numpy())
                path = self._save(CLASSFINE, graph)
                found += check_classfine(path, self.checkpoint.classifier, embedding)
        with stages.stage("Self-check: the reference's answer, and the graphs' against it"):
            found += self._make_self_check()
        return largest(found)

    def _make_self_check(self) -> list[Agreement]:
        sentences = self._sentences()[: 2 * PAIRS_AT_ONCE]
        tokens = self._tokenize(sentences)
        self.self_check = make_self_check(
            self.model, self.geometry, self.precision, sentences, tokens
        )
        models = (PREPROCESS, VISION, TEXT_ENCODER, SCORE)
        graphs = {model.name: self._version(model) / "model.onnx" for model in models}
        return check_graphs(self.self_check, graphs, tokens)

    def _build_vision(self, stages: Stages) -> tuple[list[Agreement], dict[str, NDArray[Any]]]:
        """Trace and check; returns the agreements and the graph's outputs for one volume."""
        model, precision = self.model.vision, precision_of(VISION, self.precision)
        if self.scans is not None:
            return self._build_int8_vision(self.scans, stages)
        with stages.stage("Vision encoder: trace"):
            twin = model if precision == "fp32" else typed_twin(model, precision, VISION.name)
            proto = trace_vision(twin, precision)
            guard_vision(proto)
            path = self._save(VISION, proto)
            del proto  # 700 MB that the comparison needs
        with stages.stage("Vision encoder: compare with the reference"):
            if precision == "fp32":
                return check_vision(path, model, self.geometry)
            return check_typed_vision(path, self._reference(), twin, self.geometry, precision)

    def _build_int8_vision(
        self, scans: Calibration, stages: Stages
    ) -> tuple[list[Agreement], dict[str, NDArray[Any]]]:
        """Trace in float32, quantise by CTs, judge on others."""
        preprocess = self._version(PREPROCESS) / "model.onnx"
        fitting, judging = (Voxels(preprocess, each) for each in (scans.fitting, scans.judging))
        # Beside the staged repository, and gone with it.
        with tempfile.TemporaryDirectory(dir=self.staging.parent) as folder:
            with stages.stage("Vision encoder: trace"):
                proto = trace_vision(self.model.vision)
                quantiser = Quantiser(proto, self.model.vision, Path(folder))
                del proto
            with stages.stage("Vision encoder: ranges of CT volumes", len(fitting)) as advance:
                quantiser.calibrate(fitting, advance)
            with stages.stage("Vision encoder: quantise"):
                trial = Path(folder) / "model.onnx"
                quantiser.write(trial, quantiser.parts)
                proto = onnx.load(trial)
                guard_vision(proto)
                shutil.copyfile(self._save(VISION, proto), trial)  # what is judged will serve
                del proto
            title = "Vision encoder: compare with the reference"
            with stages.stage(title, len(judging)) as advance:
                found, outputs = check_int8_vision(
                    trial, self._reference(), judging, quantiser.write, quantiser.parts,
                    advance=advance,
                )  # fmt: skip
        self.ranges = {
            "source": scans.source, "volumes": len(fitting), "voxels_sha256": fitting.sha256,
        }  # fmt: skip
        return found, outputs

    def _reference(self) -> Reference:
        ids, mask = (torch.from_numpy(array) for array in self._tokenize(self._sentences()))
        with torch.no_grad():
            return Reference(self.model, self.model.text(ids, mask))

    def _build_text(self, stages: Stages) -> tuple[list[Agreement], NDArray[np.float32]]:
        """Trace and check; returns the agreements and the bank's embeddings (2F, E)."""
        model, precision = self.model.text, precision_of(TEXT_ENCODER, self.precision)
        with stages.stage("Text encoder: trace"):
            twin = model if precision == "fp32" else typed_twin(model, precision, TEXT_ENCODER.name)
            proto = trace_text(twin, precision)
            config = self.model.config.text
            guard_text(proto, config.vocabulary_size, config.positions)
            path = self._save(TEXT_ENCODER, proto)
            del proto
        with stages.stage("Text encoder: compare with the reference"):
            # Odd texts apart: the longest text decides what all of its batch costs.
            prompts, odd = self._tokenize(self._sentences()), self._tokenize(ODD_TEXTS)
            if precision == "fp32":
                found, bank = check_text(path, self.model, *prompts)
                return found + check_text(path, self.model, *odd)[0], bank
            found, bank = check_typed_text(path, model, twin, prompts, precision)
            return found + check_typed_text(path, model, twin, odd, precision)[0], bank

    def describe(self, agreements: Sequence[Agreement]) -> dict[str, object]:
        """Write Python models, configs and provenance; return the release's record."""
        for model in PYTHON_MODELS:
            copy_sources(model.name, self._version(model))
        vocabulary = self._version(TOKENIZER) / "vocab.txt"
        vocabulary.write_bytes(self.text_model.vocabulary_bytes)
        models, ensembles = MODELS, ENSEMBLES
        if self.checkpoint.classifier is not None:
            models, ensembles = MODELS + CLASSFINE_MODELS, ENSEMBLES + CLASSFINE_ENSEMBLES
        files = {
            model.name: self._version(model)
            / ("model.py" if model in PYTHON_MODELS else "model.onnx")
            for model in models
        } | {TOKENIZER.name: vocabulary}
        origin = Origin(
            checkpoint_name=self.checkpoint.path.name,
            checkpoint_sha256=self.checkpoint.sha256,
            variant=self.checkpoint.variant,
            classfine_sha256=self.checkpoint.classfine_sha256,
            classes=self.checkpoint.classifier is not None,
            random_weights=self.checkpoint.random_weights,
            vocabulary_sha256=self.text_model.vocabulary_sha256,
            geometry=self.geometry,
            token_shape=self.dimensions.token_shape,
            precision=self.precision,
            prompts=self.prompts,
            ranges=self.ranges,
        )
        release = release_record(origin, {name: sha256(file) for name, file in files.items()})
        for model in models:
            parity = [asdict(found) for found in agreements if found.model == model.name]
            write_provenance(self._version(model), release, origin, files[model.name], parity)
            self._write_config(model.name, model_config(model, self.dimensions))
            for name, text in variant_configs(model, self.dimensions).items():
                path = self.staging / model.name / "configs" / f"{name}.pbtxt"
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
        with (self._version(CHECK) / SELF_CHECK).open("wb") as file:
            replace(self.self_check, release=release["release"]).write(file)
        for ensemble in ensembles:
            self._write_config(ensemble.name, ensemble_config(ensemble, self.dimensions))
        append_run(self.staging, VERSION, export_run(self.staging, VERSION))
        return release

    @torch.no_grad()
    def _relevance_graph(self, bank: NDArray[np.float32]) -> onnx.ModelProto:
        weights = self.model.relevance_weights(torch.from_numpy(bank)).numpy()
        codebook = self.model.vision.codebook.numpy()
        return relevance_graph(weights, codebook, self.dimensions.token_shape)

    def _save(self, model: Model, proto: onnx.ModelProto) -> Path:
        path = self._version(model) / "model.onnx"
        onnx.save(proto, path)
        onnx.checker.check_model(path, full_check=True)
        return path

    def _version(self, model: Model) -> Path:
        folder = self.staging / model.name / str(VERSION)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write_config(self, name: str, text: str) -> None:
        folder = self.staging / name
        (folder / str(VERSION)).mkdir(parents=True, exist_ok=True)
        # Keeps the version folder in git, where the weights are not. Triton needs it to exist.
        (folder / str(VERSION) / ".gitkeep").touch()
        (folder / "config.pbtxt").write_text(text, encoding="utf-8")

    def _sentences(self) -> list[str]:
        """Present, absent, present, absent, …"""
        return [text for prompt in self.prompts for text in (prompt.present, prompt.absent)]

    def _tokenize(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        return tokenised(texts, self.text_model.vocabulary_bytes.decode("utf-8"))
