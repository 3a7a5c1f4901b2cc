"""Client of CT-CLIP on Triton: read a chest CT, send it, get findings and embeddings back.

Names are loaded on first use, so that `ctclip_client.contract` and `ctclip_client.errors` can be
imported where neither numpy nor gRPC is at hand.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ctclip_client.contract import Finding
from ctclip_client.errors import (
    CTClipError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    ServerError,
    ServiceError,
    Unavailable,
    Unreadable,
)

if TYPE_CHECKING:
    from ctclip_client.maps.relevance import save_relevance
    from ctclip_client.readers import Scan, find_scans, read_volume
    from ctclip_client.results import Classification, Explanation, Provenance, Scores, Transport
    from ctclip_client.transport.asynchronous import AsyncClient
    from ctclip_client.transport.blocking import Client
    from ctclip_client.transport.endpoint import Tls
    from ctclip_client.volume import Source, Volume

__all__ = [
    "AsyncClient",
    "CTClipError",
    "Classification",
    "Client",
    "DeadlineExceeded",
    "Explanation",
    "Finding",
    "InvalidInput",
    "NotReady",
    "Provenance",
    "Scan",
    "Scores",
    "ServerError",
    "ServiceError",
    "Source",
    "Tls",
    "Transport",
    "Unavailable",
    "Unreadable",
    "Volume",
    "find_scans",
    "read_volume",
    "save_relevance",
]

_HOME = {
    "AsyncClient": "transport.asynchronous",
    "Classification": "results",
    "Client": "transport.blocking",
    "Explanation": "results",
    "Provenance": "results",
    "Scan": "readers",
    "Scores": "results",
    "Source": "volume",
    "Tls": "transport.endpoint",
    "Transport": "results",
    "Volume": "volume",
    "find_scans": "readers",
    "read_volume": "readers",
    "save_relevance": "maps",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
