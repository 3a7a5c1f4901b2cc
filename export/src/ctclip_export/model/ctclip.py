"""CT-CLIP: both encoders and the scale between their cosine and a logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctclip_export.model.config import ModelConfig
from ctclip_export.model.text import TextEncoder
from ctclip_export.model.vision import CTViT


class CTCLIP(nn.Module):
    """The reference model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = CTViT(config.vision)
        self.text = TextEncoder(config.text, config.vision.embedding_size)
        self.temperature = nn.Parameter(torch.zeros(()))

    def score(self, image_embedding: Tensor, text_embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Zero-shot scores of every volume against every pair of prompts.

        image_embedding (V, E); text_embedding (2P, E): present, absent, present, absent, …; both of
        length 1. Returns logits (V, P, 2) = cosine · exp(temperature), and the probability (V, P)
        of "present": softmax over the pair.
        """
        logits = image_embedding @ text_embedding.T * self.temperature.exp()  # (V, 2P)
        logits = logits.reshape(image_embedding.shape[0], -1, 2)  # (V, P, 2)
        return logits, logits.softmax(dim=-1)[..., 0]

    def relevance(self, codes: Tensor, norm: Tensor, text_embedding: Tensor) -> Tensor:
        """Every token's share of each finding's logit difference.

        codes (V, T, R, C) int32 and norm (V, 1) of the vision encoder; text_embedding (2F, E):
        present, absent, …. Returns (V, F, T, R, C); the sum over the last three axes is logit
        present − logit absent.

        Before it is normalised the image embedding is linear in the code rows e:
        z = Σ W_rc · e_trc / T, so the difference exp(temperature) · ⟨t⁺ − t⁻, z⟩ / ‖z‖ is a sum
        over tokens.
        """
        weights = self.relevance_weights(text_embedding)  # (N, F, W)
        rows = self.vision.codebook[codes.flatten(2)]  # (V, T, N, W)
        shares = torch.einsum("nfw,vtnw->vftn", weights, rows)  # (V, F, T, N)
        shares = shares / norm[:, :, None, None]
        return shares.reshape(*shares.shape[:3], *codes.shape[2:])

    def relevance_weights(self, text_embedding: Tensor) -> Tensor:
        """exp(temperature) · W_rcᵀ(t⁺ − t⁻) / T by in-plane position and finding: (N, F, W)."""
        difference = text_embedding[0::2] - text_embedding[1::2]  # (F, E)
        slabs, rows, columns = self.config.vision.token_shape
        projected = difference @ self.vision.projection.weight  # (F, N·W)
        weights = projected.reshape(len(difference), rows * columns, -1).transpose(0, 1)
        return weights * (self.temperature.exp() / slabs)  # (N, F, W)
