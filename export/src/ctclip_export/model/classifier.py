"""A trained head: findings from the image embedding, without prompts."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """Image embedding -> ReLU, or minus the mean -> Linear -> sigmoid.

    ClassFine (CT-LiPro) begins with the ReLU (upstream `ct_lipro_inference.py`); the linear heads
    of `ctclip fit-head` with the mean (E,) of the embeddings that they were fitted to.
    """

    def __init__(self, embedding_size: int, classes: int, mean: Tensor | None = None) -> None:
        super().__init__()
        self.mean = mean
        self.linear = nn.Linear(embedding_size, classes)

    def forward(self, image_embedding: Tensor) -> Tensor:
        """(V, E) of length 1 -> probabilities (V, C), each on its own."""
        seen = image_embedding.relu() if self.mean is None else image_embedding - self.mean
        return self.linear(seen).sigmoid()
