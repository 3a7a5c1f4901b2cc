"""What columns of label files are called, and the findings of CT-RATE that they are.

Names are compared without regard to case, spaces, underscores and hyphens. Most of RAD-ChestCT's
columns (Draelos et al. 2021, doi:10.1016/j.media.2020.101857; doi:10.5281/zenodo.6406114) are
CT-RATE's then; `RAD_CHESTCT` has the others. It follows a published mapping, that of HLIP
(github.com/Zch0414/hlip, data/rad_chestct/notebooks/map_label.ipynb): CT-CLIP's authors were asked
for theirs and have not shown it (issues 20, 24 and 29 of github.com/ibrahimethemhamamci/CT-CLIP).

Two of CT-RATE's 18 findings have no column there. RAD-ChestCT has a dozen kinds of "Medical
material" (catheter_or_port, pacemaker_or_defib, hardware, …), and which of them CT-CLIP's authors
joined is unknown. "Mosaic attenuation pattern" has none; they leave it out, too.
"""

from __future__ import annotations

import re

from ctclip_client.contract import PUBLISHED_FINDINGS

RAD_CHESTCT = {
    "nodule": "Lung nodule",
    "opacity": "Lung opacity",
    "fibrosis": "Pulmonary fibrotic sequela",
    "bronchial wall thickening": "Peribronchial thickening",
    "septal thickening": "Interlobular septal thickening",
    "hernia": "Hiatal hernia",
}
"""RAD-ChestCT's column, as `plain` writes it -> CT-RATE's finding."""
JOINED = {"Calcification": ("Arterial wall calcification", "Coronary artery wall calcification")}
"""A label that is no finding of its own, and the findings of which it is the highest.

RAD-ChestCT has one column `calcification`. CT-CLIP compares it with the higher one of the two
probabilities (`evaluate_external` in upstream's scripts/eval.py), and so does this project.
"""
LOCATION = "*"
"""Stands in RAD-ChestCT's own files between abnormality and place: `nodule*right_upper`. A scan has
the finding where any place has it."""


def plain(name: str) -> str:
    """A name as it is compared: "Pleural_Effusion " -> "pleural effusion"."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


_CT_RATE = {plain(entry.finding): entry.finding for entry in PUBLISHED_FINDINGS}


def finding_of(column: str) -> str:
    """The finding that a column is about: CT-RATE's name for it, or else its own."""
    return RAD_CHESTCT.get(plain(column)) or _CT_RATE.get(plain(column), column)
