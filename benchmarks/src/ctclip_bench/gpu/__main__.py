"""`python -m ctclip_bench.gpu check|bench`; see the Makefile."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ctclip_bench.gpu.bench import bench
from ctclip_bench.gpu.check import check
from ctclip_bench.gpu.steps import Inputs
from ctclip_client.cli.program import guarded
from ctclip_client.system.signals import termination_interrupts


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of the two; return the exit code. Errors: a line of cause, a line of remedy."""
    parser = argparse.ArgumentParser(prog="python -m ctclip_bench.gpu", description=__doc__)
    parser.add_argument("what", choices=("check", "bench"))
    parser.add_argument("--repository", type=Path, required=True, metavar="DIR")
    # Empty strings are what the Makefile gives for variables that are not set.
    parser.add_argument("--against", default="", metavar="CHECKPOINT")
    parser.add_argument("--text-model", default="", metavar="DIR")
    parser.add_argument("--url", default="", metavar="HOST:PORT")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    args, more = parser.parse_known_args(argv)
    inputs = Inputs(
        args.repository,
        Path(args.against) if args.against else None,
        Path(args.text_model) if args.text_model else None,
        args.url or None,
        args.out,
        tuple(more),
    )
    with termination_interrupts():
        return guarded(lambda: check(inputs) if args.what == "check" else bench(inputs))


if __name__ == "__main__":
    sys.exit(main())
