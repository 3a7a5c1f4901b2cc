"""HTML pages, as a browser takes them, and answers to make them of."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import numpy as np

from ctclip_client import Explanation
from ctclip_client.contract import Geometry
from ctclip_client.report.scan_page import Answer
from ctclip_client.results import Provenance, Transport

HOSTILE = "</script><script>alert('1')</script>\u202e<img src=x onerror=alert(2)>\"'&\udc80"
SMALL = Geometry((40, 60, 100), (3.0, 1.5, 1.5))


class Page(HTMLParser):
    """A page as a browser takes it: its elements, and what each of its scripts holds."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._within = ""
        self.feed(content.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._within:
            self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        elif not self._within:
            self.text += data

    def with_id(self, name: str) -> str:
        """What the script of that id holds."""
        ids = [each.get("id") for tag, each in self.elements if tag == "script"]
        return self.scripts[ids.index(name)]

    def values(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def answer(
    geometry: Geometry,
    findings: tuple[str, ...],
    token_shape: tuple[int, int, int],
    name: str = "scan",
    **recipe: Any,
) -> Answer:
    """An answer about a scan, with drawn numbers."""
    random = np.random.default_rng(7)
    logits = random.normal(0, 0.3, (len(findings), 2)).astype(np.float32)
    content = {
        "release": "r1", "contract_version": 1, "precision": "fp32", "prompts": [],
        "checkpoint": {"name": "c.pt", "sha256": "0" * 64, "random_weights": False},
        "findings": findings,
        "geometry": {"volume_shape": geometry.volume_shape,
                     "target_spacing_mm": geometry.target_spacing_mm, "token_shape": token_shape},
    }  # fmt: skip
    relevance = random.normal(0, 1e-4, (len(findings), *token_shape)).astype(np.float32)
    scores = Explanation(
        findings, 1 / (1 + np.exp(logits[:, 1] - logits[:, 0])), np.ones(1, np.float32),
        Provenance.from_json(json.dumps(content)), {"total": 1.0}, Transport("grpc", 1000), logits,
        relevance,
    )  # fmt: skip
    read = {
        "orientation": "LPS", "turned": "", "shape": [10, 20, 30], "spacing_mm": [1.0, 1.0, 1.0],
        "spacing_source": "header", "rescale": [1.0, 0.0], "hu_source": "header",
        "hu_percentiles": {"5": -1000.0}, "series": None, "sha256": None, "seen_mm": {},
        "notes": [],
    }  # fmt: skip
    return Answer(name, scores, read | recipe, {"total": 1.0}, relevance)
