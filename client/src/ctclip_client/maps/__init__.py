"""Relevance maps as NIfTI files that lie on the scan."""

from ctclip_client.maps.relevance import save_relevance

__all__ = ["save_relevance"]
