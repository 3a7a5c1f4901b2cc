"""`ctclip bench gpu`: everything that is measured on a machine with an NVIDIA GPU.

Runs where nothing of this project is installed, too, with torch, onnx, onnxscript, transformers and
numpy: `PYTHONPATH=client/src:export/src:benchmarks/src python3 -m ctclip_bench.cli.bench.gpu`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ctclip_bench.cli.subject import RESULTS, at_least, one_of
from ctclip_client.cli.flag_values import flag, seconds
from ctclip_client.cli.program import guarded
from ctclip_client.errors import EXIT_CHECK_FAILED, EXIT_OK, InvalidInput
from ctclip_client.system.signals import termination_interrupts

SUMMARY = "Measure a GPU, phase by phase; build and check, or serve, TensorRT engines on it."
NAMES = ("machine", "model", "parity", "onnx", "latency", "transfer", "compile", "triton")

_OF_PHASES = ("only", "device", "small", "limit_s", "runs", "ct", "work", "again", "json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "what", nargs="?", choices=("phases", "check", "serve"), default="phases",
        help="phases: all that needs no TensorRT and no docker; check: build TensorRT engines of "
        "--repository on this GPU, then ctclip parity with them (make gpu-check); serve: serve "
        "them in the official container, then ctclip bench serve (make gpu-bench)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR",
        help="where JSON files go: one of all, and one of each phase in DIR/phases",
    )  # fmt: skip
    parser.add_argument(
        "--repository", type=Path, metavar="DIR",
        help="written by ctclip export; phases without it make a checkpoint of random weights",
    )  # fmt: skip
    parser.add_argument(
        "--against", type=Path, metavar="CHECKPOINT", help="the checkpoint of the export"
    )
    parser.add_argument(
        "--text-model", type=Path, metavar="DIR", help="its text model, goes with --against"
    )
    phases = parser.add_argument_group("phases")
    phases.add_argument(
        "--only", type=one_of(NAMES), default=",".join(NAMES), metavar="NAMES",
        help="these phases, in their own order: %(default)s",
    )  # fmt: skip
    phases.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses without a GPU"
    )
    phases.add_argument(
        "--small", action="store_true", help="a small geometry: a minute or two on a CPU"
    )
    phases.add_argument(
        "--limit-s", type=seconds, default=540.0, metavar="S",
        help="for all phases together; each has a share of it, and is ended at it",
    )  # fmt: skip
    phases.add_argument(
        "--runs", type=at_least(1), default=30, metavar="N", help="of what is timed, at most"
    )
    phases.add_argument(
        "--ct", type=Path, metavar="FILE",
        help="of benchmarks/gpu/pack_ct.py; without it a chest is drawn",
    )  # fmt: skip
    phases.add_argument(
        "--work", type=Path, default=Path("build/gpu"), metavar="DIR",
        help="keeps checkpoint and graphs, 5 GB of them, for the next time",
    )  # fmt: skip
    phases.add_argument(
        "--again", action="store_true",
        help="run phases again that have come to their end on this machine with these settings",
    )  # fmt: skip
    phases.add_argument("--json", action="store_true", help="print the JSON instead of the rows")
    engines = parser.add_argument_group("check and serve")
    engines.add_argument("--url", metavar="HOST:PORT", help="ask the Triton there, start none")
    engines.add_argument(
        "--flags", nargs=argparse.REMAINDER, default=(), metavar="…",
        help="last of all: what follows goes to ctclip parity (check) or ctclip bench serve",
    )  # fmt: skip


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Measure, write, print. Exit code 1 if a phase failed or was cut off, a verdict is no PASS, or
    nothing was measured.
    """
    if args.what == "phases":
        return _phases(args)
    from ctclip_bench.gpu.check import check
    from ctclip_bench.gpu.serve import serve
    from ctclip_bench.gpu.steps import Inputs

    _refuse_flags_of_phases(args)
    if not args.repository:
        raise InvalidInput(f"{args.what}: --repository is missing.", "Name an exported one.")
    inputs = Inputs(
        args.repository, args.against, args.text_model, args.url, args.out, tuple(args.flags)
    )
    return check(inputs) if args.what == "check" else serve(inputs)


def _refuse_flags_of_phases(args: argparse.Namespace) -> None:
    """Raises: InvalidInput for one that has another value than by default."""
    parser = argparse.ArgumentParser()
    configure(parser)
    by_default = parser.parse_args([])
    for name in _OF_PHASES:
        if getattr(args, name) != getattr(by_default, name):
            raise InvalidInput(f"{args.what}: {flag(name)} is of the phases.", "Leave it out.")


def _phases(args: argparse.Namespace) -> int:
    from ctclip_bench.gpu.run import run_phases
    from ctclip_bench.gpu.settings import Settings
    from ctclip_bench.results.files import check_folder

    if args.url or args.flags:
        raise InvalidInput("--url and --flags are of check and serve.", "Leave them out.")
    if args.device == "cuda":
        _require_gpu()
    settings = Settings(
        args.device, args.small, args.runs, args.ct, args.repository, args.against,
        args.text_model, args.work.absolute(),
    )  # fmt: skip
    settings.check()
    check_folder(args.out)
    check_folder(args.work)

    def say(text: str) -> None:
        print(text, file=sys.stderr if args.json else sys.stdout, flush=True)

    names = [name for name in NAMES if name in args.only]
    path, whole = run_phases(settings, names, args.out, args.limit_s, again=args.again, say=say)
    if args.json:
        print(path.read_text(encoding="utf-8"), end="")
    else:
        print(f"Written: {path}")
    return EXIT_OK if whole.passed else EXIT_CHECK_FAILED


def _require_gpu() -> None:
    import torch

    from ctclip_bench.gpu.steps import require_gpu

    require_gpu("Run it on the machine with the GPU; --device cpu --small rehearses without one.")
    if not torch.cuda.is_available():
        raise InvalidInput(
            f"torch {torch.__version__} finds no GPU with CUDA here, though there is one.",
            "Install a torch with CUDA, of a version that the driver takes.",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """The same without the program `ctclip`, which has to be installed; return the exit code."""
    parser = argparse.ArgumentParser(prog="ctclip bench gpu", description=SUMMARY)
    configure(parser)
    return guarded(lambda: run(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
