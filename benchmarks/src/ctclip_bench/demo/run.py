"""The whole path on one machine: random checkpoint, export, parity, server, a real CT, findings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ctclip_bench.demo.checkpoint import make_checkpoint
from ctclip_bench.demo.codebook import CodeUsage
from ctclip_bench.demo.sizes import DemoModel
from ctclip_bench.demo.text_model import write_text_model
from ctclip_bench.load import statistics
from ctclip_client import Client, Explanation, Volume, read_volume
from ctclip_client.contract import EXPLAIN, PUBLISHED_FINDINGS
from ctclip_client.errors import CTClipError
from ctclip_client.system.progress import Stages
from ctclip_client.transport.connection import Connection
from ctclip_export.checkpoint import load_checkpoint, read_text_model
from ctclip_export.parity.compare import Agreement
from ctclip_export.parity.judge import BOUNDS, StepAnswer, StepVerdict, judge
from ctclip_export.parity.reference import reference_answer
from ctclip_export.repository.build import export_repository
from ctclip_export.samples.sample_data import CHEST_CT, VOCABULARY, fetch
from ctclip_server.embedded.server import EmbeddedTriton

CHECKPOINT_NAME = "ctclip_demo.pt"


@dataclass(frozen=True)
class DemoResult:
    """What the demo found out. `server_ms`: time inside each model, by Triton's own statistics."""

    scan: Path
    volume: Volume
    read_ms: float
    usage: CodeUsage
    agreements: Sequence[Agreement]
    scores: Explanation
    parity: StepVerdict
    server_ms: dict[str, float]


def run_demo(demo: DemoModel, folder: Path, stages: Stages) -> DemoResult:
    """Do everything below `folder`; the checkpoint is kept there for the next time.

    Raises: CTClipError if any step fails, or if what is served is not what PyTorch computes.
    """
    with stages.stage("Sample CT and vocabulary: fetch by package name"):
        scan = fetch(CHEST_CT, folder.parent / "data")
        vocabulary = fetch(VOCABULARY, folder.parent / "data")
    with stages.stage("Sample CT: read"):
        volume = read_volume(scan)
    read_ms = stages.timings_ms["Sample CT: read"]
    checkpoint_path = folder / CHECKPOINT_NAME
    usage = make_checkpoint(demo, volume, checkpoint_path, stages)
    text_model = read_text_model(
        write_text_model(demo.config.text, vocabulary.read_bytes(), folder / "text_model")
    )
    with stages.stage("Checkpoint: read and check"):
        checkpoint = load_checkpoint(checkpoint_path, text_model, demo.geometry)
    repository = folder / "model_repository"
    export = export_repository(
        checkpoint, text_model, demo.geometry, PUBLISHED_FINDINGS, repository, stages=stages
    )
    with stages.stage("Reference: the same CT in PyTorch"):
        reference = reference_answer(
            checkpoint, text_model, demo.geometry, volume, PUBLISHED_FINDINGS
        )
    with ExitStack() as stack:
        with stages.stage("Triton: start and load all models"):
            triton = stack.enter_context(EmbeddedTriton(repository))
        with stages.stage("Triton: the CT through the gRPC client"):
            with Client(triton.grpc_url, timeout_s=300) as client:
                scores = client.explain(volume)
            spent = statistics.read(Connection(triton.grpc_url))
    names = [step.model.name for step in EXPLAIN.steps]
    server_ms = {name: statistics.mean_ms(spent[name], "compute_infer") for name in names}
    served = StepAnswer.of_scores(scores)
    parity = judge("served by Triton", [served], [reference], BOUNDS["fp32"])
    if parity.verdict != "PASS":
        raise CTClipError(
            f"parity: served and reference differ: {parity.reason}.",
            "Report it with the processor's name and the versions of onnxruntime and torch.",
        )
    return DemoResult(scan, volume, read_ms, usage, export.agreements, scores, parity, server_ms)
