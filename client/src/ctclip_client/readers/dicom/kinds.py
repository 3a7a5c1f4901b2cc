"""What an image is, told by the codes of its header and never by its descriptions."""

from __future__ import annotations

import re

from ctclip_client.readers.dicom.header import CT_CLASS, Image

_CT = (CT_CLASS, f"{CT_CLASS}.1", f"{CT_CLASS}.2")
"""The classical one, enhanced, and classical ones that were converted to enhanced."""
_OTHERS = (
    ("1.2.840.10008.5.1.4.1.1.7", "secondary capture"),
    ("1.2.840.10008.5.1.4.1.1.88", "structured report (a dose report, for instance)"),
    ("1.2.840.10008.5.1.4.1.1.11", "presentation state"),
    ("1.2.840.10008.5.1.4.1.1.104", "document"),
)
"""Storage classes by the start of their UIDs, and what they are."""
_WORDS = (
    (("LOCALIZER", "SCOUT", "TOPOGRAM"), "localizer"),
    (("MIP", "MINIP", "MNIP", "MAXIP", "MAX_IP", "MIN_IP", "MAX IP", "MIN IP", "PROJECTION IMAGE"),
     "intensity projection (MIP)"),
    (("VOLUME_RENDER", "SURFACE_RENDER", "VRT", "SSD", "CURVED_MPR"), "rendering"),
    (("SCREEN SAVE", "SCREENSAVE"), "screen capture"),
    (("SUBTRACTION",), "difference of images"),
    (("RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX"), "map of perfusion"),
)  # fmt: skip
"""Of ImageType and VolumeBasedCalculationTechnique."""
_PATTERNS = tuple(
    (re.compile(rf"(?<![A-Z])(?:{'|'.join(words)})(?![A-Z])"), kind) for words, kind in _WORDS
)
CT, GREY = "CT", "MONOCHROME2"
"""Of Modality and PhotometricInterpretation."""


def is_ct(image: Image) -> bool:
    """Whether it is stored as a CT image, whatever it shows."""
    return image.sop_class in _CT


def left_out(image: Image) -> str:
    """Why an image is no slice of a scan; "" where it may be one."""
    if not is_ct(image):
        for start, kind in _OTHERS:
            if image.sop_class == start or image.sop_class.startswith(f"{start}."):
                return kind
        return "no CT image (by its storage class)"
    if image.modality != CT:
        return "no CT (by Modality)"
    for pattern, kind in _PATTERNS:
        if any(pattern.search(word) for word in image.image_type):
            return kind
    if image.pixels is not None and image.pixels.samples != 1:
        return "colour image"
    return ""
