"""What to do about a file that is refused, in commands that can be pasted.

Whoever reads them may have nothing but this file: data that was published has no DICOM behind it.
"""

from __future__ import annotations

import json
import sys
from itertools import count
from pathlib import Path

from ctclip_client.errors import Unreadable
from ctclip_client.system.terminal import command_line

COPY_AGAIN = (
    "Copy or download the file again and compare its size or checksum; if they are the same, it "
    "was damaged when it was written."
)
AS_STORED = (
    "If the stored array is known to run [x, y, z] towards Left, Posterior, Superior, ask for "
    "as_stored with the spacing (--as-stored --spacing z,x,y)."
)


def not_opened(path: Path, error: OSError | ValueError) -> Unreadable:
    """What to tell of a path that cannot be opened or searched. A NUL byte in it is a ValueError.

    path: what was asked for, where the error does not name the file.
    """
    where = getattr(error, "filename", None) or path
    why = getattr(error, "strerror", None) or error
    return Unreadable(f"{where}: {why}.", "Check the path and the permission to read it.")


def fixed(path: Path) -> str:
    """A new file in the current folder, for what a command makes of this one."""
    stem = path.name.removesuffix(".gz")
    for suffix in (".nii", ".hdr", ".img"):
        stem = stem.removesuffix(suffix)
    names = (f"{stem}.fixed{number or ''}.nii.gz" for number in count())
    return next(name for name in names if not Path(name).exists())


def with_header(path: Path, statements: str) -> str:
    """A command that writes the same stored voxels with another NIfTI header.

    statements: Python, where `h` is nibabel's header of the file.
    """
    return _nibabel(path, f"o = type(i)(v, None, i.header); h = o.header; {statements}")


def as_one_file(path: Path) -> str:
    """A command that makes one file of a NIfTI pair."""
    return _nibabel(path, "o = n.Nifti1Image(v, None, i.header)")


def without_orientation(path: Path) -> str:
    """A command that makes NIfTI of Analyze, with no orientation, since Analyze has none."""
    return _nibabel(path, "o = n.Nifti1Image(v, None)")


def first_volume(path: Path, axes: int) -> str:
    """A command that takes the first volume of a file with more than three axes."""
    return _nibabel(path, f"o = type(i)(v[:, :, :{', 0' * (axes - 3)}], None, i.header)")


def resampled(path: Path) -> str:
    """A command that resamples a NIfTI file onto the patient's axes, to the published model's
    spacing (x, y, z); air is where it has nothing. It needs scipy, which ctclip does not."""
    return _python(
        "import nibabel as n, nibabel.processing as p; n.save(p.resample_to_output("
        f"n.load({_literal(path)}), (0.75, 0.75, 1.5), cval=-1000), {_literal(fixed(path))})"
    )


def by_simpleitk(path: Path) -> str:
    """A command that makes a NIfTI file of what SimpleITK reads."""
    return _python(
        "from SimpleITK import ReadImage, WriteImage; "
        f"WriteImage(ReadImage({_literal(path)}), {_literal(fixed(path))})"
    )


def by_gunzip(path: Path) -> str:
    """A command that takes one layer of gzip away."""
    return f"gunzip < {command_line(path)} > {command_line(fixed(path))}"


def _nibabel(path: Path, statements: str) -> str:
    """statements: make an image `o` of the image `i` and its stored voxels `v`."""
    return _python(
        f"import nibabel as n; i = n.load({_literal(path)}); v = i.dataobj.get_unscaled(); "
        f"{statements}; "
        "o.header.set_slope_inter(i.dataobj.slope, i.dataobj.inter); "
        f"n.save(o, {_literal(fixed(path))})"
    )


def _literal(path: Path | str) -> str:
    """In double quotes, which a shell's single ones may surround."""
    return json.dumps(str(path), ensure_ascii=False)


def _python(program: str) -> str:
    return command_line(sys.executable, "-c", program)
