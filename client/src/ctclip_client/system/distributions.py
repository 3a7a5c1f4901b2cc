"""What the distributions of this project bring, and where they come from: its own checkout, no
index of packages."""

from __future__ import annotations

COMMANDS = {
    "export": "ctclip-export",
    "build-engines": "ctclip-export",
    "evaluate": "ctclip-analysis",
    "fit-head": "ctclip-analysis",
    "serve": "ctclip-server",
    "promote": "ctclip-server",
    "rollback": "ctclip-server",
    "bench": "ctclip-bench",
    "demo": "ctclip-bench",
    "parity": "ctclip-bench",
}
"""Commands of distributions that may not be installed -> the distribution that brings each."""
INSPECTORS = {"checkpoint": "ctclip-export", "repository": "ctclip-export"}
"""Likewise for what `ctclip doctor` examines."""

_FOLDERS = {
    "ctclip-client": "./client",
    "ctclip-export": "./client ./export",
    "ctclip-analysis": "./client ./analysis",
    "ctclip-server": "./client ./server",
    "ctclip-bench": "./client ./export ./analysis ./server ./benchmarks",
}
"""Distribution -> its folder, after those of the distributions that it needs: pip would look for
these in its index, where anybody may have taken the names."""


def how_to_install(distribution: str) -> str:
    """Return the remedy for a distribution that is missing or broken."""
    if distribution not in _FOLDERS:
        return f"Install {distribution} again, from where it came."
    return f"In a checkout of this project: pip install {_FOLDERS[distribution]}"


def how_to_install_extra(name: str) -> str:
    """Likewise for what the client needs for one format only."""
    return f'In a checkout of this project: pip install "./client[{name}]"'
