"""A linear head of `ctclip fit-head`, for the checkpoint on whose embeddings it was trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ctclip_client.contract import Geometry
from ctclip_client.errors import InvalidInput
from ctclip_client.release.digest import sha256
from ctclip_client.release.linear_head import LinearHead, read_linear_head
from ctclip_export.model import Classifier

_OF_THIS = (
    "Embed the scans by this checkpoint (ctclip export without --head, ctclip embed image), and "
    "fit the head to that: ctclip fit-head."
)


@dataclass(frozen=True)
class HeadFile:
    """A head, and the name and SHA-256 of the file that it came from."""

    head: LinearHead
    name: str
    sha256: str

    def told(self) -> dict[str, Any]:
        """What PROVENANCE says of it."""
        return {
            "name": self.name, "sha256": self.sha256, "trained_on": asdict(self.head.trained_on),
        }  # fmt: skip


def read_head_file(path: Path) -> HeadFile:
    """Read it whole. Raises: Unreadable."""
    return HeadFile(read_linear_head(path), path.name, sha256(path))


def check_trained_on(
    file: HeadFile, checkpoint: Path, checkpoint_sha256: str, geometry: Geometry
) -> None:
    """Refuse a head that would judge embeddings which it was not trained on.

    The precision of the embeddings may be another one, and so may the prompts.
    Raises: InvalidInput.
    """
    trained_on, seen = file.head.trained_on, geometry.in_words()
    if trained_on.checkpoint_sha256 != checkpoint_sha256:
        raise InvalidInput(
            f"--head: {file.name} was trained on embeddings of {trained_on.checkpoint} (SHA-256 "
            f"{trained_on.checkpoint_sha256[:16]}…), and --checkpoint is {checkpoint.name} "
            f"({checkpoint_sha256[:16]}…), whose embeddings are others.",
            _OF_THIS,
        )
    if trained_on.geometry not in ("", seen):
        raise InvalidInput(
            f"--head: {file.name} was trained on embeddings of {trained_on.geometry}, and this "
            f"export's are of {seen}.",
            "Give the same --volume-shape and --target-spacing. " + _OF_THIS,
        )


def linear_classifier(file: HeadFile, embedding_size: int) -> Classifier:
    """The module. Raises: InvalidInput where it is for embeddings of another size."""
    head = file.head
    if head.embedding_size != embedding_size:
        raise InvalidInput(
            f"--head: {file.name} is for embeddings of {head.embedding_size} numbers, the "
            f"checkpoint's have {embedding_size}.",
            _OF_THIS,
        )
    weight, bias, mean = map(torch.from_numpy, head.arrays())
    module = Classifier(embedding_size, len(head.classes), mean)
    module.linear.weight = torch.nn.Parameter(weight)
    module.linear.bias = torch.nn.Parameter(bias)
    return module.requires_grad_(False).eval()
