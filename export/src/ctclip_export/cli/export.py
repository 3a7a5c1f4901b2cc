"""`ctclip export`: a checkpoint becomes a Triton model repository."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctclip_client.cli.flag_values import spacing_mm, volume_shape
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_client.system.files import special
from ctclip_client.system.signals import termination_interrupts
from ctclip_client.system.terminal import command_line, printable
from ctclip_export.precision.choices import PRECISIONS

if TYPE_CHECKING:
    from ctclip_export.checkpoint import Checkpoint, TextModel
    from ctclip_export.repository.build import Export

SUMMARY = "Export a CT-CLIP checkpoint to a Triton model repository, checked against PyTorch."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE",
        help="CT-CLIP_v2.pt, CT_VocabFine_v2.pt or CT_LiPro_v2.pt",
    )  # fmt: skip
    trained = parser.add_mutually_exclusive_group()
    trained.add_argument(
        "--classfine", type=Path, metavar="FILE",
        help="CT_LiPro_v2.pt, to serve its classifier beside --checkpoint",
    )  # fmt: skip
    trained.add_argument(
        "--head", type=Path, metavar="FILE",
        help="a linear head on the checkpoint's embeddings, of ctclip fit-head, to serve it in the "
        "place of ClassFine's",
    )  # fmt: skip
    parser.add_argument(
        "--text-model", type=Path, required=True, metavar="DIR",
        help="folder of the checkpoint's text model: config.json, and vocab.txt or tokenizer.json",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR",
        help="the model repository to write; models of the same names are replaced",
    )  # fmt: skip
    parser.add_argument(
        "--volume-shape", type=volume_shape, default="240x480x480", metavar="ZxXxY",
        help="voxels that the checkpoint was trained on",
    )  # fmt: skip
    parser.add_argument(
        "--target-spacing", type=spacing_mm, default="1.5,0.75,0.75", metavar="Z,X,Y",
        help="their size in mm",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help='findings to score: JSON [{"finding": …, "present": …, "absent": …}] '
        "(default: the 18 of CT-RATE)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32",
        help="of both encoders' trunks; int8 of the vision encoder's",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", type=Path, metavar="DIR",
        help="NIfTI files that int8 takes its ranges from, and is judged on (default: a public "
        "chest CT and variations of it)",
    )  # fmt: skip


@termination_interrupts()
def run(args: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from ctclip_client.contract import PUBLISHED_FINDINGS, Geometry
    from ctclip_client.prompts import read_prompts
    from ctclip_client.system.progress import Stages
    from ctclip_export.checkpoint import load_checkpoint, read_text_model
    from ctclip_export.checkpoint.linear_head import read_head_file
    from ctclip_export.repository.build import export_repository
    from ctclip_export.repository.placement import check_target

    check_target(args.out)
    _check_files(args)
    geometry = Geometry(args.volume_shape, args.target_spacing)
    prompts = read_prompts(args.prompts) if args.prompts else PUBLISHED_FINDINGS
    text_model = read_text_model(args.text_model)
    head = read_head_file(args.head) if args.head else None
    with Stages() as stages:
        with stages.stage("Checkpoint: read and check"):
            checkpoint = load_checkpoint(
                args.checkpoint, text_model, geometry, args.classfine, head
            )
        _warn(checkpoint, text_model)
        export = export_repository(
            checkpoint,
            text_model,
            geometry,
            prompts,
            args.out,
            precision=args.precision,
            calibration_folder=args.calibration,
            stages=stages,
        )
    _report(export)
    return 0


def _check_files(args: argparse.Namespace) -> None:
    """What minutes of work would find out: files that cannot be read, a place not to be written."""
    from ctclip_export.samples.scans import scans_in

    if args.calibration is not None:
        if args.precision != "int8":
            raise InvalidInput(
                f"--calibration is for int8, got --precision {args.precision}.", "Leave it out."
            )
        scans_in(args.calibration, "--calibration")
    for option, path in (("--checkpoint", args.checkpoint), ("--classfine", args.classfine)):
        if path is None:
            continue
        try:
            if kind := special(path):  # opening a pipe would wait, and take what is in it
                raise InvalidInput(f"{option}: {path}: {kind}.", "Name a file of weights.")
            path.open("rb").close()
        except OSError as error:
            raise Unreadable(
                f"{option}: {path}: {str(error.strerror).lower()}.", "Name a file of weights."
            ) from error
    beside = next(p for p in args.out.absolute().parents if p.exists())
    try:
        with tempfile.TemporaryFile(dir=beside):
            pass
    except OSError as error:
        raise InvalidInput(
            f"--out: {args.out}: cannot write into {beside}: {error.strerror or error}.",
            "Name a folder on a disk with room that you may write to.",
        ) from error


def _warn(checkpoint: Checkpoint, text_model: TextModel) -> None:
    for told in checkpoint.unwrapped:
        print(printable(told), file=sys.stderr)
    if checkpoint.head is not None and not checkpoint.head.head.trained_on.geometry:
        print(
            "warning: --head does not say for which --volume-shape and --target-spacing it was "
            "trained; they must be this export's.",
            file=sys.stderr,
        )
    if checkpoint.random_weights:
        print("RANDOM WEIGHTS: this checkpoint was never trained.", file=sys.stderr)
    elif text_model.is_bert_base:
        print(
            "warning: --text-model holds bert-base-uncased's vocabulary; published CT-CLIP "
            "checkpoints were trained with microsoft/BiomedVLP-CXR-BERT-specialized's.",
            file=sys.stderr,
        )


def _report(export: Export) -> None:
    print(
        f"{export.repository}: release {export.release['release']}, {export.release['precision']}"
    )
    print(f"{'model':<19}{'compared with the reference':<37}{'largest':>9}{'allowed':>20}")
    for found in export.agreements:
        print(f"{found.model:<19}{found.quantity:<37}{found.measured:>9.1e}{found.allowed:>20}")
    # ONNX Runtime has no bfloat16 kernels for CPUs.
    config = ("--config-name", "openvino") if export.release["precision"] == "bf16" else ()
    serve = command_line("ctclip", "serve", "--repository", export.repository, *config)
    print(f"Serve it: {serve}")
