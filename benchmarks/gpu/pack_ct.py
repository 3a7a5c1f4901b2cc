"""The public chest CT at half the published resolution: pack_ct.py OUT.npz.

For `ctclip bench gpu --ct OUT.npz`, where no CT can be fetched.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ctclip_client import read_volume
from ctclip_client.contract import Geometry
from ctclip_export.model.preprocess import preprocess
from ctclip_export.samples.sample_data import CHEST_CT, fetch, kept_folder

ct = read_volume(fetch(CHEST_CT, kept_folder()))
half = Geometry((120, 240, 240), (3.0, 1.5, 1.5))
voxels = preprocess(ct.voxels, ct.spacing_mm, ct.rescale, half)[0, 0].numpy()
out = Path(sys.argv[1])
np.savez_compressed(out, voxels=np.round((voxels + 1) * 127.5).astype(np.uint8))
print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")
