"""What a release is made from, and what follows from that alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctclip_client.contract import (
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MODELS,
    Dimensions,
    Ensemble,
    Finding,
    Geometry,
    Model,
)
from ctclip_client.prompts import sentences
from ctclip_export.checkpoint import Checkpoint, TextModel
from ctclip_export.model import CTCLIP
from ctclip_export.text.tokens import Ids, tokenised


@dataclass(frozen=True)
class ExportSource:
    """A loaded checkpoint, its text model, and what the user asked for."""

    checkpoint: Checkpoint
    text_model: TextModel
    geometry: Geometry
    prompts: tuple[Finding, ...]
    precision: str = "fp32"

    @property
    def model(self) -> CTCLIP:
        """The reference model."""
        return self.checkpoint.model

    @property
    def dimensions(self) -> Dimensions:
        """The sizes that the configs state."""
        vision = self.model.config.vision
        return Dimensions(
            self.geometry.volume_shape, vision.token_shape, vision.embedding_size,
            len(self.prompts), len(self.checkpoint.classes),
        )  # fmt: skip

    @property
    def models(self) -> tuple[Model, ...]:
        """Models of the release, `ctclip_classfine` only where there is a trained head."""
        return MODELS + (CLASSFINE_MODELS if self.checkpoint.classifier is not None else ())

    @property
    def ensembles(self) -> tuple[Ensemble, ...]:
        """Ensembles of the release."""
        return ENSEMBLES + (CLASSFINE_ENSEMBLES if self.checkpoint.classifier is not None else ())

    @property
    def sentences(self) -> list[str]:
        """Of all findings: present, absent, present, absent, …"""
        return sentences(self.prompts)

    def tokenised(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """Token ids and mask (N, L) int64 of texts."""
        return tokenised(texts, self.text_model.vocabulary_bytes.decode("utf-8"))
