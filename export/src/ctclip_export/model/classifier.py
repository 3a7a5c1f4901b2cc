"""A trained head: findings from the image embedding, without prompts."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """Image embedding -> (ReLU ->) Linear -> sigmoid.

    ClassFine (CT-LiPro) begins with the ReLU (upstream `ct_lipro_inference.py`); the linear heads
    of `ctclip fit-head` do not.
    """

    def __init__(self, embedding_size: int, classes: int, *, relu: bool) -> None:
        super().__init__()
        self.relu = relu
        self.linear = nn.Linear(embedding_size, classes)

    def forward(self, image_embedding: Tensor) -> Tensor:
        """(V, E) of length 1 -> probabilities (V, C), each on its own."""
        seen = image_embedding.relu() if self.relu else image_embedding
        return self.linear(seen).sigmoid()
