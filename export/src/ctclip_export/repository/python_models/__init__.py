"""The Python models, one folder each, copied into a repository as they are.

They run inside Triton, where this project is not installed, and import nothing of it.
"""

import shutil
from pathlib import Path

from ctclip_client.contract import TOKENIZER
from ctclip_export.text import word_pieces

_SHARED = {TOKENIZER.name: (Path(word_pieces.__file__),)}
"""Model -> files that it has from elsewhere in this project."""


def sources(model_name: str) -> list[Path]:
    """One model's source files, by the names that they have in its version folder."""
    own = (Path(__file__).parent / model_name).glob("*.py")
    return sorted([*own, *_SHARED.get(model_name, ())], key=lambda path: path.name)


def copy_sources(model_name: str, version_folder: Path) -> None:
    """Copy one model's source files into its version folder."""
    for source in sources(model_name):
        shutil.copyfile(source, version_folder / source.name)
