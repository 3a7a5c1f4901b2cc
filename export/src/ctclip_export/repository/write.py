"""Write what a release has beside its graphs: Python models, configs, records, self-check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ctclip_client.contract import CHECK, PYTHON_MODELS, TOKENIZER
from ctclip_client.release.digest import sha256
from ctclip_client.release.parity_runs import append_run, export_run
from ctclip_client.release.records import digests_of_release
from ctclip_client.release.self_check import FILE as SELF_CHECK
from ctclip_client.release.self_check import SelfCheck
from ctclip_export.parity.compare import Agreement
from ctclip_export.repository.configs import ensemble_config, model_config
from ctclip_export.repository.make import graph_file, version_folder
from ctclip_export.repository.pbtxt import VERSION
from ctclip_export.repository.provenance import release_record, write_provenance
from ctclip_export.repository.python_models import copy_sources
from ctclip_export.repository.source import ExportSource
from ctclip_export.repository.variants import variant_configs


def write_release(
    source: ExportSource,
    staging: Path,
    agreements: Sequence[Agreement],
    self_check: SelfCheck,
    ranges: Mapping[str, object] | None,
) -> dict[str, object]:
    """Complete a staging folder in which all graphs lie; returns the release's record.

    self_check: without the release's name, which is known only here. ranges: what int8's were taken
    from; no other precision has any.
    """
    for model in PYTHON_MODELS:
        copy_sources(model.name, version_folder(staging, model))
    vocabulary = version_folder(staging, TOKENIZER) / "vocab.txt"
    vocabulary.write_bytes(source.text_model.vocabulary_bytes)
    files = {
        model: version_folder(staging, model) / "model.py"
        if model in PYTHON_MODELS
        else graph_file(staging, model)
        for model in source.models
    } | {TOKENIZER: vocabulary}
    digests = {
        model: {name: sha256(file.with_name(name)) for name in (file.name, *model.further_files)}
        for model, file in files.items()
    }
    of_release = digests_of_release({model.name: each for model, each in digests.items()})
    release = release_record(source, of_release, ranges)
    for model, file in files.items():
        parity = [asdict(found) for found in agreements if found.model == model.name]
        write_provenance(file, digests[model], release, source.text_model.vocabulary_sha256, parity)
        _write_config(staging, model.name, model_config(model, source.dimensions))
        for name, text in variant_configs(model, source.dimensions).items():
            path = staging / model.name / "configs" / f"{name}.pbtxt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for ensemble in source.ensembles:
        _write_config(staging, ensemble.name, ensemble_config(ensemble, source.dimensions))
    with (version_folder(staging, CHECK) / SELF_CHECK).open("wb") as stream:
        replace(self_check, release=release["release"]).write(stream)
    append_run(staging, VERSION, export_run(staging, VERSION))
    return release


def _write_config(staging: Path, name: str, text: str) -> None:
    folder = staging / name
    (folder / str(VERSION)).mkdir(parents=True, exist_ok=True)
    # Keeps the version folder in git, where the weights are not. Triton needs it to exist.
    (folder / str(VERSION) / ".gitkeep").touch()
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
