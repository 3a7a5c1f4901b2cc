"""CT-CLIP in PyTorch, written for inference: the reference for everything that is exported."""

from ctclip_export.model.classifier import Classifier
from ctclip_export.model.config import ModelConfig, TextConfig, VisionConfig
from ctclip_export.model.ctclip import CTCLIP
from ctclip_export.model.text import TextEncoder
from ctclip_export.model.vision import CTViT, VisionStages

__all__ = [
    "CTCLIP",
    "CTViT",
    "Classifier",
    "ModelConfig",
    "TextConfig",
    "TextEncoder",
    "VisionConfig",
    "VisionStages",
]
