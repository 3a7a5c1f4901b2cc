"""Bad input is never a verdict: exit code 2, the file is named, nothing is kept or begun."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ctclip_client.cli.program import main
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.release.parity_runs import FILE
from ctclip_server.embedded.server import EmbeddedTriton

from ..conftest import Golden
from ..nifti_files import chest, save

Case = tuple[list[str], str]
FREE_PORTS = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
"""Arguments, and what the error names."""

SCANS: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(b"no CT"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(save(path, chest((9, 9, 9))).read_bytes()[:1000]),
    "folder": lambda path: path.mkdir(),
    "link": lambda path: path.symlink_to("nowhere"),
    "pipe": os.mkfifo,
    "nan": lambda path: save(path, np.full((9, 9, 9), np.nan, np.float32)),
    "air": lambda path: save(path, np.full((9, 9, 9), -1000, np.int16)),
}
"""What lies as B.nii beside a good scan."""


@pytest.fixture(scope="module")
def bad(golden: Golden, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that are none."""
    folder = tmp_path_factory.mktemp("bad")
    for name, make in SCANS.items():
        (folder / name).mkdir()
        shutil.copy(phantoms / "ct0.nii.gz", folder / name / "A.nii.gz")
        make(folder / name / "B.nii")
    (folder / "nothing").mkdir()
    (folder / "file").write_text("x")
    columns = ",".join(entry.finding for entry in PUBLISHED_FINDINGS)
    names, ones = [f"ct{seed}.nii.gz" for seed in range(4)], ",1" * len(PUBLISHED_FINDINGS)
    good = "".join(f"{name}{ones}\n" for name in names)
    labels = {
        "binary": "\0\udcff", "empty": "", "column": "VolumeName,a\n",
        "row": f"VolumeName,{columns}\n{names[0]}{ones}\n",
        "two": f"VolumeName,{columns}\n{good.replace(',1', ',2')}",
        "word": f"VolumeName,{columns}\n{good.replace(',1', ',yes')}",
        "short": f"VolumeName,{columns}\n{good.replace(ones, ',1')}",
        "long": f"VolumeName,{columns}\n{good.replace(ones, ones + ',1')}",
        "twice": f"VolumeName,{columns}\n{good}{good.replace(',1', ',0')}",
        "columns": f"VolumeName,{columns},{PUBLISHED_FINDINGS[0].finding}\n{good}",
    }  # fmt: skip
    for name, text in labels.items():
        (folder / f"{name}.csv").write_text(text, errors="surrogateescape")
    for name in ("vocab.txt", "config.json"):
        text = Path(shutil.copytree(golden.text_model, folder / f"no-{name}"))
        (text / name).unlink()
    text = Path(shutil.copytree(golden.text_model, folder / "cut-config"))
    (text / "config.json").write_text("{")
    text = Path(shutil.copytree(golden.text_model, folder / "other-words"))
    words = (text / "vocab.txt").read_text().splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    (text / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[[list[str], str], str]:
    def run(arguments: list[str], named: str) -> str:
        try:
            code = main(arguments)
        except SystemExit as ended:
            code = ended.code
        said = capfd.readouterr()
        assert (code, said.out) == (2, ""), (arguments, said.err)
        cause = next(line for line in said.err.splitlines() if line.startswith("error: "))
        assert named in cause, (arguments, said.err)
        return said.err

    return run


def kept(repository: Path) -> bytes | None:
    """The list of parity runs."""
    path = repository / "ctclip_check" / "1" / FILE
    return path.read_bytes() if path.exists() else None


def test_parity_and_bench(
    copied: Path,
    bad: Path,
    phantoms: Path,
    golden: Golden,
    server: EmbeddedTriton,
    refused: Callable[[list[str], str], str],
) -> None:
    page, before = bad / "page.html", kept(copied)
    against = ["--against", str(golden.checkpoint), "--text-model"]
    shared: list[Case] = [
        *((["--scans", str(bad / name)], "B.nii") for name in SCANS),
        (["--scans", str(bad / "nothing")], "nothing"),
        (["--scans", str(bad / "file")], "file"),
        (["--repository", str(bad / "absent")], "absent"),
        (["--repository", str(bad / "nothing")], "nothing"),
        (["--repository", str(phantoms)], str(phantoms)),
        (["--against", "x.pt"], "go together"),
        *(
            ([*against, str(bad / name)], name)
            for name in ("absent", "file", "nothing", "no-vocab.txt", "no-config.json",
                         "cut-config", "other-words")
        ),
        *(
            (["--against", str(path), "--text-model", str(golden.text_model)], path.name)
            for path in (bad / "absent", bad / "nothing", bad / "file", bad / "pipe" / "B.nii",
                         golden.folder / "ct_lipro.pt")
        ),
    ]  # fmt: skip
    parity: list[Case] = [
        *((["--labels", str(path)], path.name) for path in sorted(bad.glob("*.csv"))),
        (["--labels", str(bad / "absent")], "absent"),
        (["--labels", str(bad / "nothing")], "nothing"),
        (["--report", str(bad / "absent" / "x.html")], "absent"),
        (["--report", str(bad / "nothing")], "nothing"),
        (["--report", str(bad / "pipe" / "B.nii")], "a pipe (FIFO) is there"),
        (["--report", str(phantoms / "ct0.nii.gz")], "would be lost"),
        (["--report", str(copied / "ctclip_check" / "1" / "provenance.json")], "would be lost"),
        (["--report", str(page), "--scans", str(bad / "garbage")], "B.nii"),
    ]
    bench: list[Case] = [
        (["--out", str(bad / "file")], "file"),
        (["--out", str(bad / "file" / "x")], "file"),
    ]
    for command, cases in (("parity", shared + parity), ("bench", shared + bench)):
        for more, named in cases:
            base = ["--repository", str(copied), "--scans", str(phantoms)]
            url = [] if "--config-name" in more else ["--url", server.grpc_url]
            err = refused([command, *base, *url, *more], named)
            assert "ONNX" not in err
            assert "Triton: start" not in err
    assert kept(copied) == before
    assert not page.exists()


def _damages() -> Iterator[tuple[str, Callable[[Path], object], str]]:
    for model in ("ctclip_check", "ctclip_vision", "ctclip_pathologies"):
        yield model, shutil.rmtree, model
    for name in ("config.pbtxt", "1/provenance.json"):
        yield f"ctclip_check/{name}", Path.unlink, "ctclip_check"
        yield f"ctclip_check/{name}", lambda path: path.write_bytes(b"{{\xff"), name
    yield "ctclip_vision/1/provenance.json", lambda path: path.write_bytes(b"{"), "ctclip_vision"
    yield "ctclip_vision/1/model.onnx", lambda path: path.write_bytes(b"no graph"), "ctclip_vision"
    for name in ("ctclip_preprocess/1/model.onnx", "ctclip_vision/1/model.onnx"):
        yield name, lambda path: path.write_bytes(path.read_bytes()[:1000]), name
    for name in ("ctclip_vision/1/model.onnx", "ctclip_text/1/model.onnx",
                 "ctclip_tokenizer/1/vocab.txt"):  # fmt: skip
        yield name, Path.unlink, name
        yield name, lambda path: (path.unlink(), path.mkdir()), name
    yield f"ctclip_check/1/{FILE}", lambda path: path.write_text('{"engines": null}\n'), FILE


@pytest.mark.parametrize(("name", "damage", "named"), list(_damages()))
def test_files_of_the_release(
    name: str,
    damage: Callable[[Path], object],
    named: str,
    copied: Path,
    phantoms: Path,
    server: EmbeddedTriton,
    refused: Callable[[list[str], str], str],
) -> None:
    """What cannot be read says nothing of the release; a file that is another one does."""
    damage(copied / name)
    before = kept(copied)
    parity = ["parity", "--repository", str(copied), "--scans", str(phantoms)]
    err = refused([*parity, "--url", server.grpc_url], named)
    assert "ONNX" not in err
    assert kept(copied) == before


def test_a_server_of_another_release(
    copied: Path,
    phantoms: Path,
    server: EmbeddedTriton,
    refused: Callable[[list[str], str], str],
) -> None:
    before = kept(copied)
    for path in copied.glob("*/1/provenance.json"):
        record = json.loads(path.read_text())
        record["release"]["release"] = "another"
        path.write_text(json.dumps(record))
    for command in ("parity", "bench"):
        base = [command, "--repository", str(copied), "--scans", str(phantoms)]
        refused([*base, "--url", server.grpc_url], "another")
        refused([*base, "--config-name", "nonsense"], "nonsense")
    assert kept(copied) == before


def test_export_build_engines_demo_and_doctor(
    repository: Path,
    bad: Path,
    golden: Golden,
    server: EmbeddedTriton,
    tmp_path: Path,
    refused: Callable[[list[str], str], str],
) -> None:
    """Before anything long begins."""
    out, checkpoint = str(tmp_path / "out"), ["--checkpoint", str(golden.checkpoint)]
    export = ["--text-model", str(golden.text_model), "--volume-shape", golden.volume_shape_flag]
    int8 = [*checkpoint, "--out", out, "--precision", "int8", "--calibration"]
    cases: list[Case] = [
        *(
            (["export", *export, "--checkpoint", str(bad / name), "--out", out], name)
            for name in ("absent", "nothing", "file", "pipe/B.nii")
        ),
        *(
            (["export", *export, *checkpoint, "--out", out, option, str(bad / name)], name)
            for option in ("--classfine", "--prompts")
            for name in ("absent", "nothing", "file")
        ),
        (
            ["export", *export, *checkpoint, "--out", out, "--classfine", str(bad / "pipe/B.nii")],
            "a pipe (FIFO)",
        ),
        *(
            (["export", *export, *checkpoint, "--out", place], place)
            for place in (str(bad / "file"), str(bad / "file" / "x"), "/proc/x", str(bad))
        ),
        *((["export", *export, *int8, str(bad / name)], "B.nii") for name in SCANS),
        (["export", *export, *int8, str(bad / "nothing")], "nothing"),
        (["export", *export, *int8, str(bad / "file")], "file"),
        *(
            (["build-engines", "--target", "tensorrt-rtx", "--out", out, *more], named)
            for more, named in (
                (["--repository", str(bad / "absent")], "absent"),
                (["--repository", str(bad / "nothing")], "nothing"),
                (["--repository", str(repository), "--out", str(bad / "file")], "file"),
            )
        ),
        (
            ["bench", "--repository", str(repository), "--scans", str(bad), "--variations", "1"],
            "--variations",
        ),
        (["demo", "--small", "--folder", str(bad / "file")], "file"),
        (["demo", "--small", "--folder", "/proc/x"], "/proc/x"),
        (["doctor", str(bad / "absent")], "absent"),
        (["doctor", str(bad / "nothing")], "nothing"),
        (["doctor", str(golden.checkpoint), "--text-model", str(bad / "absent")], "absent"),
        (["doctor", str(golden.checkpoint), "--text-model", str(bad / "file")], "file"),
        (["doctor", server.grpc_url, "--repository", str(bad / "absent")], "absent"),
        (["doctor", server.grpc_url, "--repository", str(bad / "nothing")], "nothing"),
        (
            ["serve", "--repository", str(repository), "--log", str(bad / "nothing"), *FREE_PORTS],
            "nothing",
        ),
        (["serve", "--repository", str(bad / "nothing")], "nothing"),
    ]
    for arguments, named in cases:
        assert ": trace" not in refused(arguments, named)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_promote_and_rollback(
    command: str,
    copied: Path,
    bad: Path,
    server: EmbeddedTriton,
    refused: Callable[[list[str], str], str],
) -> None:
    (copied / "ctclip_vision" / "1" / "provenance.json").write_bytes(b"{")
    cases: list[Case] = [
        (["--repository", str(bad / "absent")], "absent"),
        (["--repository", str(bad / "nothing")], "nothing"),
        (["--repository", str(bad / "garbage")], "garbage"),
        (["--repository", str(copied), "--to", "1"], "ctclip_vision/1/provenance.json"),
        (["--repository", str(copied), "--headers-file", str(bad / "absent")], "absent"),
        (["--repository", str(copied), "--tls-ca", str(bad / "file")], "file"),
    ]
    if command == "promote":
        cases += [
            (["--repository", str(copied), "--from", str(bad / name)], name)
            for name in ("absent", "nothing", "file")
        ]
        both = ["--from", str(copied), "--to", "1"]
        cases.append((["--repository", str(copied), *both], "--from and --to"))
    for more, named in cases:
        refused([command, "--url", server.grpc_url, *more], named)
