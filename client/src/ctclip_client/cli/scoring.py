"""One scan of `ctclip predict`, from its volume to what is kept of it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.contract import CLASSIFY, EXPLAIN, PATHOLOGIES, ZERO_SHOT, Ensemble
from ctclip_client.errors import InvalidInput

if TYPE_CHECKING:
    from ctclip_client import Classification, Client, Explanation, Finding, Scan, Scores, Volume
    from ctclip_client.batch.journal import Row
    from ctclip_client.batch.names import Key, Names
    from ctclip_client.cli.predictions import Prediction
    from ctclip_client.cli.reports import Reports


class Scoring:
    """folders: of each scan's maps, below that of `--explain`. pages: of each scan, with
    `--report`. Both are empty where they are not asked for. marks: by which maps and pages of each
    scan are known again. ensemble: that answers."""

    def __init__(
        self,
        args: argparse.Namespace,
        names: Names,
        *,
        prompts: tuple[Finding, ...] | None,
        folders: Mapping[Key, Path],
        marks: Mapping[Key, str],
        reports: Reports | None,
        pages: Mapping[Key, Path],
    ) -> None:
        self._args, self._names, self._prompts = args, names, prompts
        self._folders, self._marks, self._reports, self._pages = folders, marks, reports, pages
        self.ensemble, self._ask = self._question()

    def prepare(self, client: Client) -> None:
        """Make the folder of the maps, and see that thresholds are of the release's findings."""
        self._check_thresholds(client)
        if self._args.explain is not None:
            try:
                self._args.explain.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InvalidInput(
                    f"--explain: {self._args.explain}: {error.strerror or error}.",
                    "Name a folder that you may write to.",
                ) from error

    def score(self, client: Client, scan: Scan, volume: Volume, read_ms: float) -> Prediction:
        """Ask the server, once, and write maps and page where they are asked for."""
        from ctclip_client import Explanation
        from ctclip_client.batch.service import StopError
        from ctclip_client.cli.many import predicted

        scores = self._ask(client, volume)
        explanation = scores if isinstance(scores, Explanation) else None
        # Without the maps, which lie on the disk: many may wait for their turn to be told.
        light = scores if explanation is None else _without_maps(explanation)
        found = predicted(light, scan, volume, self._names, read_ms)
        try:
            if explanation is not None and self._folders:
                self._write_maps(found, explanation, scan, volume)
            if self._reports is not None:
                maps = None if explanation is None else explanation.relevance
                key = self._names.key(scan)
                page, (_, series) = self._pages[key], key
                started = time.perf_counter()
                self._reports.write(page, found, volume, maps, series, mark=self._marks[key])
                found.page, found.page_ms = page, (time.perf_counter() - started) * 1000
        except InvalidInput as error:  # the next scan would be scored for nothing
            raise StopError(error) from None
        return found

    def row(self, scan: Prediction) -> tuple[Row, None]:
        """What the journal keeps: the object of the contract."""
        return scan.to_json(embedding=self._args.embedding), None

    def _check_thresholds(self, client: Client) -> None:
        from ctclip_client.batch.service import provenance_of

        if self._reports is None or self._reports.thresholds is None or self._prompts is not None:
            return
        found = provenance_of(client)
        if found is not None:  # otherwise they are checked on the first page
            known = found.classes if self._args.classify else found.findings
            self._reports.thresholds.check_known(known)

    def _question(self) -> tuple[Ensemble, Callable[[Client, Volume], Classification]]:
        """Which ensemble answers, and how it is asked."""
        prompts = self._prompts
        if self._args.classify:
            return CLASSIFY, lambda client, volume: client.classify(volume)
        if prompts is not None:
            return ZERO_SHOT, lambda client, volume: client.zero_shot(volume, prompts)
        if self._args.explain is not None or self._reports is not None:
            return EXPLAIN, lambda client, volume: client.explain(volume)
        return PATHOLOGIES, lambda client, volume: client.pathologies(volume)

    def _write_maps(
        self, found: Prediction, explanation: Explanation, scan: Scan, volume: Volume
    ) -> None:
        from ctclip_client import save_relevance

        started = time.perf_counter()
        key = self._names.key(scan)
        folder = self._args.explain / self._folders[key]
        found.maps_index = save_relevance(explanation, volume, folder, mark=self._marks[key])
        found.maps_ms = (time.perf_counter() - started) * 1000


def _without_maps(explanation: Explanation) -> Scores:
    from ctclip_client import Scores

    return Scores(**{each.name: getattr(explanation, each.name) for each in fields(Scores)})
