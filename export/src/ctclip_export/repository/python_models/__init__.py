"""The Python models, one folder each, copied into a repository as they are.

They run inside Triton, where this project is not installed, and import nothing of it.
"""

import shutil
from pathlib import Path


def sources(model_name: str) -> dict[str, Path]:
    """File name -> source, of everything that one model's version folder gets."""
    home = Path(__file__).parent
    files = (*(home / model_name).glob("*.py"), *(home / "common").glob("*.py"))
    return {path.name: path for path in sorted(files)}


def copy_sources(model_name: str, version_folder: Path) -> None:
    """Copy one model's source files, and those that all share, into its version folder."""
    for name, source in sources(model_name).items():
        shutil.copyfile(source, version_folder / name)
