"""Where the distributions of this project come from: its own checkout, no index of packages."""

from __future__ import annotations

_FOLDERS = {
    "ctclip-client": "./client",
    "ctclip-export": "./client ./export",
    "ctclip-server": "./client ./server",
    "ctclip-bench": "./client ./export ./server ./benchmarks",
}
"""Distribution -> its folder, after those of the distributions that it needs: pip would look for
these in its index, where anybody may have taken the names."""


def how_to_install(distribution: str) -> str:
    """Return the remedy for a distribution that is missing or broken."""
    if distribution not in _FOLDERS:
        return f"Install {distribution} again, from where it came."
    return f"In a checkout of this project: pip install {_FOLDERS[distribution]}"
