"""How large a scan may be, in every format, before room is made for it."""

from __future__ import annotations

from ctclip_client.errors import Unreadable

LARGEST_VOXELS = 1 << 30
"""2 GiB as int16, what a gRPC message holds. The largest scan of CT-RATE has 424 million."""
LARGEST_BYTES = 4 << 30
"""As stored: float64 takes four times as much as int16."""


def check_size(where: str, voxels: int, nbytes: int) -> None:
    """Refuse what no chest CT needs: a small file can unpack to a thousand times its size.

    Args:
        where: what to call the scan. voxels, nbytes: of all of it, as it is stored.

    Raises: Unreadable.
    """
    if voxels > LARGEST_VOXELS or nbytes > LARGEST_BYTES:
        raise Unreadable(
            f"{where}: too large: {voxels:,} voxels, {nbytes:,} bytes; expected at most "
            f"{LARGEST_VOXELS:,} voxels, and {LARGEST_BYTES:,} bytes.",
            "Crop the scan to the chest, or write its voxels as int16 where they are larger.",
        )
