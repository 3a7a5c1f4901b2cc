"""The embedded Triton and the drop-in backends that let it serve the production repository."""

from typing import TYPE_CHECKING

from ctclip_client.system.telemetry import forbid_telemetry

if TYPE_CHECKING:
    from ctclip_server.embedded.server import EmbeddedTriton

__all__ = ["EmbeddedTriton"]

forbid_telemetry()


def __getattr__(name: str) -> object:
    """Load what starts servers only when asked: every Python stub imports this package too."""
    if name == "EmbeddedTriton":
        from ctclip_server.embedded.server import EmbeddedTriton

        return EmbeddedTriton
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
