"""From a repository to engines: check each graph, compile it, place it with its record."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ctclip_client.contract import (
    CLASSFINE,
    FINDINGS,
    RELEVANCE,
    SCORE,
    TEXT_ENCODER,
    VISION,
    Model,
)
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.release.digest import sha256
from ctclip_client.release.engines import EngineRecord, read_engine_record
from ctclip_client.release.members import pinned_version_by_text
from ctclip_client.release.records import ReleaseRecord, read_model_record
from ctclip_client.system.progress import Stages
from ctclip_export.engines.compiler import Job
from ctclip_export.engines.gpu import Gpu, read_gpu
from ctclip_export.engines.graph_types import check_typed_graph
from ctclip_export.engines.key import Key, difference
from ctclip_export.engines.layers import LayerReport, read_layers
from ctclip_export.engines.memory import check_memory
from ctclip_export.engines.process import compile_in_process
from ctclip_export.engines.profile import profile_of
from ctclip_export.engines.target import (
    EngineError,
    Target,
    check_capability,
    load_library,
)
from ctclip_export.engines.versions import library_version
from ctclip_export.engines.warmup import write_warmup
from ctclip_export.precision.choices import precision_of
from ctclip_export.samples.sample_data import kept_folder

ENCODERS = (VISION, TEXT_ENCODER)
"""What Triton serves as plans. The small graphs stay with ONNX Runtime: there is nothing to gain,
and their refusals of bad input come as shapes, which TensorRT would only warn of."""
COMPILED = (*ENCODERS, SCORE, FINDINGS, RELEVANCE, CLASSFINE)
"""What TensorRT for RTX compiles: everything but preprocessing (INT16 and FP64, which TensorRT
does not take) and Python."""
DEFAULT_CAPABILITY = "8.0"


@dataclass(frozen=True)
class BuiltEngine:
    """One engine in its place. changed: why it was built; "" if the one that lay there is right.

    report: None if it was not built now, or if the builder did not list its layers.
    """

    model: str
    folder: Path
    changed: str
    record: EngineRecord
    report: LayerReport | None


def build_engines(
    repository: Path,
    target: Target,
    *,
    compute_capability: str | None = None,
    out: Path | None = None,
    stages: Stages | None = None,
) -> list[BuiltEngine]:
    """Build what is missing or does not match, all or nothing.

    compute_capability: to compile for, with a target that needs no GPU. out: a folder for the
    engines; without it they go into the repository, beside their graphs.
    Raises: EngineError, InvalidInput, Unreadable, NoGpu.
    """
    _check_out(repository, target, out)
    release, versions = _read_repository(repository, ENCODERS if target.in_repository else COMPILED)
    library = load_library(target)
    gpu = read_gpu() if target.builds_on_gpu else None
    capability = _capability(gpu, compute_capability)
    check_capability(target, library, capability)
    builder = _Builder(
        repository, target, library_version(library), capability, gpu, stages or Stages()
    )
    with _gone_if_empty(out), ExitStack() as staging:
        engines = [
            builder.build(model, version, release, out, staging)
            for model, version in versions.items()
        ]
        if gpu is not None:
            check_memory({engine.model: engine.record for engine, _ in engines}, gpu, repository)
        for engine, made in engines:
            if made is not None:
                _place(engine, made, target)
    if out is None:
        with builder.stages.stage("Warm-up: a phantom and a prompt"):
            _warm_up(repository, versions[VISION], release)
    return [engine for engine, _ in engines]


@dataclass(frozen=True)
class _Builder:
    repository: Path
    target: Target
    library_version: str
    capability: str
    gpu: Gpu | None
    stages: Stages

    def build(
        self,
        model: Model,
        version: str,
        release: ReleaseRecord,
        out: Path | None,
        staging: ExitStack,
    ) -> tuple[BuiltEngine, Path | None]:
        """The engine of one model, and the folder where it waits to be placed (None: unchanged)."""
        graph = self.repository / model.name / version / "model.onnx"
        precision = precision_of(model, release.precision)
        folder = graph.parent if out is None else out / model.name
        with self.stages.stage(f"{model.name}: check the graph"):
            _check_origin(graph)
            check_typed_graph(graph, precision)
            key = Key(
                sha256(graph), self.library_version, self.capability,
                profile_of(model, graph), precision,
            )  # fmt: skip
            reason = difference(folder, self.target.plan, key)
        if not reason:
            return BuiltEngine(model.name, folder, "", read_engine_record(folder), None), None
        beside = graph.parent if out is None else out
        beside.mkdir(parents=True, exist_ok=True)
        # On the same disk, so that placing is renaming.
        made = Path(
            staging.enter_context(
                tempfile.TemporaryDirectory(
                    prefix=".engine-", dir=beside, ignore_cleanup_errors=True
                )
            )
        )
        plan = made / self.target.plan
        job = Job(
            self.target.name, model.name, str(graph), str(plan), self.capability, key.profile,
            self._timing_cache(),
        )  # fmt: skip
        with self.stages.stage(f"{model.name}: build for {self.capability}", 100) as advance:
            outcome = compile_in_process(job, advance)
        report = read_layers(outcome.log, graph)
        record = EngineRecord(
            **asdict(key),
            gpu_name="" if self.gpu is None else self.gpu.name,
            plan_sha256=sha256(plan),
            plan_bytes=plan.stat().st_size,
            layers={} if report is None else report.summary(),
        )
        if report is not None and out is not None:
            text = json.dumps(asdict(report), indent=1)
            (made / "layers.json").write_text(text + "\n", encoding="utf-8")
        return BuiltEngine(model.name, folder, reason, record, report), made

    def _timing_cache(self) -> str:
        """TensorRT measures kernels for minutes; what it measured holds for this GPU and version.

        TensorRT for RTX builds without a GPU and measures nothing.
        """
        if self.gpu is None:
            return ""
        # By its name: an A100 of 40 GB and one of 80 have one architecture and not one cache.
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu.name.lower())
        return str(kept_folder() / f"timing-{self.library_version}-{gpu}.bin")


def _place(engine: BuiltEngine, made: Path, target: Target) -> None:
    """Plan first: should the record not follow, the old one does not match, and it is refused."""
    engine.folder.mkdir(exist_ok=True)
    for name in (target.plan, "layers.json"):
        if (made / name).is_file():
            (made / name).replace(engine.folder / name)
    engine.record.write(engine.folder)


def _warm_up(repository: Path, version: str, release: ReleaseRecord) -> None:
    try:
        write_warmup(repository, version, release)
    except OSError as error:
        raise InvalidInput(
            f"warm-up: {error.filename or repository}: {error.strerror or error}. The engines are "
            "in their places.",
            "Fix that, and run it again: it keeps the engines and writes what is missing.",
        ) from error


@contextmanager
def _gone_if_empty(out: Path | None) -> Iterator[None]:
    """Inside, `out` and folders above it may be made; what is still empty at the end goes again."""
    new = [] if out is None else [each for each in (out, *out.parents) if not each.exists()]
    try:
        yield
    finally:
        for folder in new:
            with suppress(OSError):
                folder.rmdir()


def _check_out(repository: Path, target: Target, out: Path | None) -> None:
    if not repository.is_dir():
        raise Unreadable(f"--repository: {repository} is no folder.", "Name an exported one.")
    if out is None:
        if not target.in_repository:
            raise InvalidInput(
                f"--target {target.name} needs --out DIR: Triton cannot load its engines.",
                "Name a folder outside the repository.",
            )
        return
    if out.absolute().resolve().is_relative_to(repository.resolve()):
        raise InvalidInput(
            f"--out: {out} lies in the repository.",
            "Triton takes every folder in a repository for a model: name one elsewhere.",
        )
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"--out: {out} is a file.", "Name a folder; it need not exist yet.")


def _read_repository(
    repository: Path, models: Sequence[Model]
) -> tuple[ReleaseRecord, dict[Model, str]]:
    """The release, and the version to build of every model: the one that is served, which after a
    rollback is not the newest.

    Raises: InvalidInput in the middle of a promotion.
    """
    served = pinned_version_by_text(repository)
    versions: dict[Model, str] = {}
    for model in models:
        if (repository / model.name / str(served) / "model.onnx").is_file():
            versions[model] = str(served)
        elif model is not CLASSFINE:
            raise Unreadable(
                f"--repository: {repository} has no {model.name}/{served}/model.onnx.",
                "Name a repository that ctclip export has written.",
            )
    return read_model_record(repository / VISION.name / str(served)).release, versions


def _check_origin(graph: Path) -> None:
    """Refuse a graph that is not the one whose parity was measured. Raises: EngineError."""
    if sha256(graph) != read_model_record(graph.parent).file_sha256:
        raise EngineError(
            f"{graph.parent.parent.name}: {graph.name} is not the file that provenance.json "
            "describes: its parity was never measured.",
            "No engine was built. Export the checkpoint again with ctclip export.",
        )


def _capability(gpu: Gpu | None, asked: str | None) -> str:
    if gpu is None:
        return asked or DEFAULT_CAPABILITY
    if asked not in (None, gpu.compute_capability):
        raise InvalidInput(
            f"--compute-capability: got {asked}; the GPU here, {gpu.name}, has "
            f"{gpu.compute_capability}.",
            "TensorRT builds for the GPU it runs on: leave the flag out, or build on the other.",
        )
    return gpu.compute_capability
