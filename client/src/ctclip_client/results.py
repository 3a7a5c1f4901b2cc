"""What comes back from the server, checked, as plain values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ctclip_client.contract import VERSION, Finding, Geometry
from ctclip_client.errors import ServerError

_REPOSITORY = "Ask who runs the server to export the model repository again (ctclip export)."


@dataclass(frozen=True)
class Transport:
    """How the voxels reached the server, and their size in bytes."""

    kind: Literal["grpc", "shared_memory"]
    bytes: int


@dataclass(frozen=True)
class Provenance:
    """What answered: one release, made from one checkpoint.

    random_weights: true for demo checkpoints, whose results mean nothing.
    findings, prompts: of the release's own bank, in the order of `ctclip_pathologies`.
    classes: of its trained head (ClassFine or linear), in the order of `ctclip_classify`; empty
    where it has none.
    content: everything the server said.
    """

    release: str
    checkpoint_name: str
    checkpoint_sha256: str
    random_weights: bool
    precision: str
    findings: tuple[str, ...]
    prompts: tuple[Finding, ...]
    classes: tuple[str, ...]
    contract_version: int
    content: Mapping[str, Any] = field(repr=False)

    @classmethod
    def from_json(cls, text: bytes | str) -> Provenance:
        """Read the PROVENANCE of an answer.

        Raises:
            ServerError: not what the contract promises, or a contract of another version.
        """
        try:
            content = json.loads(text)
            version = content["contract_version"]
            if version != VERSION:
                raise ServerError(
                    f"PROVENANCE: the server speaks version {version} of the contract, this client "
                    f"version {VERSION}.",
                    "Install the client of its release; in that checkout: pip install ./client",
                )
            checkpoint = content["checkpoint"]
            return cls(
                release=str(content["release"]),
                checkpoint_name=str(checkpoint["name"]),
                checkpoint_sha256=str(checkpoint["sha256"]),
                random_weights=bool(checkpoint["random_weights"]),
                precision=str(content["precision"]),
                findings=tuple(str(name) for name in content["findings"]),
                prompts=tuple(
                    Finding(entry["finding"], entry["present"], entry["absent"])
                    for entry in content["prompts"]
                ),
                classes=tuple(str(name) for name in content.get("classes", ())),
                contract_version=version,
                content=content,
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ServerError(
                f"PROVENANCE: the server's answer is not what the contract promises ({error!r}).",
                _REPOSITORY,
            ) from error

    def geometry(self) -> tuple[Geometry, tuple[int, int, int]]:
        """What the vision model sees, and its tokens (T, H', W') along (z, x, y).

        Raises:
            ServerError: missing, or no whole number of voxels to a token.
        """
        try:
            entry = self.content["geometry"]
            depth, height, width = (int(size) for size in entry["volume_shape"])
            z, x, y = (float(edge) for edge in entry["target_spacing_mm"])
            slabs, rows, columns = (int(size) for size in entry["token_shape"])
            rests = (depth % slabs, height % rows, width % columns)
        except (ValueError, TypeError, KeyError, ZeroDivisionError) as error:
            raise ServerError(
                f"PROVENANCE: geometry is not what the contract promises ({error!r}).", _REPOSITORY
            ) from error
        if any(rests) or min(depth, height, width, slabs, rows, columns, z, x, y) <= 0:
            raise ServerError(f"PROVENANCE: geometry makes no sense: {entry}.", _REPOSITORY)
        return Geometry((depth, height, width), (z, x, y)), (slabs, rows, columns)


@dataclass(frozen=True, eq=False)
class Classification:
    """Probabilities of one scan, from a trained head (ClassFine, or a linear one). There are no
    logits: the head was trained on the findings themselves, it compares no sentences.

    findings: names, the order of the array.
    probabilities: one float32 in [0, 1] for each name.
    image_embedding: (E,) float32, length 1.
    timings_ms: milliseconds of each stage on this side, and their `total`.
    request_id: by which the server's log and traces name the scan's request.
    """

    findings: tuple[str, ...]
    probabilities: NDArray[np.float32]
    image_embedding: NDArray[np.float32]
    provenance: Provenance
    timings_ms: Mapping[str, float]
    transport: Transport
    request_id: str = field(default="", kw_only=True)

    def rows(self) -> Iterator[tuple[str, float, float | None, float | None]]:
        """Finding, probability, logits present and absent; the last two are None here."""
        for name, probability in zip(self.findings, self.probabilities, strict=True):
            yield name, float(probability), None, None

    def to_json(self) -> dict[str, object]:
        """The object that `ctclip predict --json` prints, without path, recipe and embedding.

        Logits are null where there are none, so that the keys are always the same.
        """
        keys = ("finding", "probability", "logit_present", "logit_absent")
        return {
            "findings": [dict(zip(keys, row, strict=True)) for row in self.rows()],
            "provenance": dict(self.provenance.content),
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "transport": {"kind": self.transport.kind, "bytes": self.transport.bytes},
        }


@dataclass(frozen=True, eq=False)
class Scores(Classification):
    """Zero-shot scores of one scan: a `Classification` by pairs of sentences, with their logits.

    probabilities: (F,) float32 in [0, 1], of "present" against "absent".
    logits: (F, 2) float32, present and absent.
    """

    logits: NDArray[np.float32]

    def rows(self) -> Iterator[tuple[str, float, float | None, float | None]]:
        """Finding, probability, logits present and absent."""
        for (name, probability, _, _), (present, absent) in zip(
            super().rows(), self.logits, strict=True
        ):
            yield name, probability, float(present), float(absent)


@dataclass(frozen=True, eq=False)
class Explanation(Scores):
    """`Scores` by the release's own bank, and where in the scan each of them comes from.

    relevance: (F, T, H', W') float32, tokens along (z, x, y) of the volume that the model sees. A
        value is the token's share of logit present − logit absent: above 0 it counts for the
        finding, below 0 against it, and all of a finding's add up to the difference of its logits.
        `ctclip_client.save_relevance` writes them as images that lie on the scan.
    """

    relevance: NDArray[np.float32]
