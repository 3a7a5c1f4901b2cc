"""Reading checkpoints that people hold, and refusing everything else by name."""

from ctclip_export.checkpoint.load import Checkpoint, load_checkpoint
from ctclip_export.text.text_model import TextModel, read_text_model

__all__ = ["Checkpoint", "TextModel", "load_checkpoint", "read_text_model"]
