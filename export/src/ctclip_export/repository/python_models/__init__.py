"""The Python models, one folder each, copied into a repository as they are.

They run inside Triton, where this project is not installed, and import nothing of it.
"""

import shutil
from pathlib import Path


def copy_sources(model_name: str, version_folder: Path) -> None:
    """Copy one model's source files into its version folder."""
    for source in sorted((Path(__file__).parent / model_name).glob("*.py")):
        shutil.copyfile(source, version_folder / source.name)
