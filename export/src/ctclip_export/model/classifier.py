"""The ClassFine (CT-LiPro) head: findings from the image embedding, without prompts."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """Image embedding -> ReLU -> Linear -> sigmoid (upstream `ct_lipro_inference.py`)."""

    def __init__(self, embedding_size: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding_size, classes)

    def forward(self, image_embedding: Tensor) -> Tensor:
        """(V, E) of length 1 -> probabilities (V, 18), each on its own."""
        return self.linear(image_embedding.relu()).sigmoid()
