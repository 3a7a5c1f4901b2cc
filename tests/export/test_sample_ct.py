"""The real CT of `golden/preprocess`, from its file to the model's volume as upstream makes it.

It comes out of its package, as in `make demo`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctclip_client import read_volume
from ctclip_client.contract import PUBLISHED_GEOMETRY
from ctclip_export.graphs.preprocess import preprocess_graph

from ..conftest import DATA
from .test_graphs import scan, session

OPTIONS = {
    "cxr_lps": {},
    "cxr_as_stored": {"as_stored": True, "spacing_mm": (2.5, 0.703125, 0.703125)},
}


@pytest.mark.parametrize("case", OPTIONS)
def test_the_real_ct_is_upstreams(case: str, chest_ct: Path) -> None:
    volume = read_volume(chest_ct, **OPTIONS[case])
    run = session(preprocess_graph(PUBLISHED_GEOMETRY))
    voxels = run(scan(volume.voxels, volume.spacing_mm, volume.rescale))["VOXELS"][0, 0]
    with np.load(DATA / "golden" / "preprocess" / "expected.npz") as upstream:
        z, x, y = upstream[f"{case}_index"].T
        np.testing.assert_allclose(voxels[z, x, y], upstream[f"{case}_value"], rtol=0, atol=2e-4)
        content = voxels != -1
        edges = [content.any(axis=rest).nonzero()[0][[0, -1]] for rest in ((1, 2), (0, 2), (0, 1))]
        box = np.stack(edges, axis=1)
        np.testing.assert_array_equal(box, upstream[f"{case}_content_box"])
