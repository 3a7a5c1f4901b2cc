"""What a target is taken for, and that nothing at all ends in a traceback."""

from __future__ import annotations

import gzip
import io
import os
import random
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ctclip_client.doctor.subject import recognise
from ctclip_client.errors import InvalidInput


def zipped(*names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("anything", zipped("archive/data.pkl"), "checkpoint"),
        ("model.pt", b"noise", "checkpoint"),
        ("model.PTH", b"", "checkpoint"),
        ("old", b"\x80\x02c", "checkpoint"),
        ("study.zip", zipped("a.dcm"), "ct"),
        ("scan", gzip.compress(b"x", mtime=0), "ct"),
        ("scan", bytes(344) + b"n+1\0", "ct"),
        ("scan", bytes(128) + b"DICM", "ct"),
        ("scan.nii.gz", b"noise", "ct"),
        ("scan", b"NRRD0004", "ct"),
    ],
)
def test_files_are_told_by_their_content(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    subject = recognise(str(tmp_path / name))
    assert (subject.kind, subject.path) == (kind, tmp_path / name)


@pytest.mark.parametrize(
    ("target", "address", "tls"),
    [
        ("localhost:8001", "localhost:8001", False),
        ("[::1]:8001", "[::1]:8001", False),
        ("grpc://triton.example:8001", "triton.example:8001", False),
        ("grpcs://triton.example:443/", "triton.example:443", True),
    ],
)
def test_addresses_are_servers(target, address, tls):
    subject = recognise(target)
    assert (subject.kind, subject.address, subject.tls) == ("server", address, tls)


def test_a_file_wins_over_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("scan:1").write_bytes(b"NRRD")
    assert recognise("scan:1").kind == "ct"


def test_a_repository_without_any_config_is_still_one(tmp_path):
    (tmp_path / "ctclip_vision").mkdir()
    assert recognise(str(tmp_path)).kind == "repository"


def test_a_folder_of_dicom_files_is_a_ct(tmp_path):
    (tmp_path / "IM1").write_bytes(bytes(128) + b"DICM")
    assert recognise(str(tmp_path)).kind == "ct"


@pytest.mark.parametrize("target", ["http://localhost:8000", "ftp://x", "grpcx://a:1", "localhost"])
def test_other_addresses_are_refused(target):
    with pytest.raises(InvalidInput):
        recognise(target)


def test_parts_of_things_are_sent_to_the_whole(repository, golden):
    with pytest.raises(InvalidInput, match="one model of a repository"):
        recognise(str(repository / "ctclip_vision"))
    with pytest.raises(InvalidInput, match="single file of a model repository"):
        recognise(str(repository / "ctclip_vision/1/model.onnx"))
    with pytest.raises(InvalidInput, match="text model"):
        recognise(str(golden.text_model))


@pytest.mark.parametrize(
    "flags",
    [
        ("--volume-shape", "1x2"), ("--volume-shape", "0x1x1"), ("--volume-shape", "²x1x1"),
        ("--target-spacing", "nan,1,1"), ("--spacing", "1,2"), ("--timeout-s", "nan"),
        ("--colour",),
    ],
)  # fmt: skip
def test_wrong_options_are_usage_errors(doctor, flags):
    assert doctor("localhost:1", *flags).code == 2


@pytest.mark.parametrize("flag", ["--target-spacing", "--spacing"])
@pytest.mark.parametrize("spacing", ["1e-3,1,1", "1,1,20"])
def test_a_spacing_outside_the_limits_is_told_the_limits(doctor, flag, spacing):
    outcome = doctor("localhost:1", flag, spacing)
    assert outcome.code == 2
    assert f"argument {flag}: got '{spacing}'" in outcome.err
    assert "more than 0.05 and less than 20 mm" in outcome.err


class TestNothingEndsInATraceback:
    """Exit 1 or 2, a sentence of cause, and never a traceback (which `doctor` would raise)."""

    @staticmethod
    def refused(outcome, codes=(2,)):
        assert outcome.code in codes
        if outcome.code == 2:
            assert outcome.out == ""
            assert "error: " in outcome.err

    @pytest.mark.parametrize(
        "target", ["/dev/null", "", "a" * 5000, "a\0b", "no/such/file", ".", "x\x1b[2J", "\udcff"]
    )
    def test_odd_names(self, doctor, tmp_path, monkeypatch, target):
        monkeypatch.chdir(tmp_path)
        self.refused(doctor(target))

    def test_sockets_pipes_and_links(self, doctor, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
            os.mkfifo("pipe")
            Path("nowhere").symlink_to("missing")
            Path("loop").symlink_to("loop")
            for name in ("socket", "pipe", "nowhere", "loop"):
                self.refused(doctor(name))

    def test_names_that_are_no_text(self, doctor, tmp_path):
        path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.pt")
        Path(path).write_bytes(b"PK\3\4 noise")
        outcome = doctor(path)
        assert (outcome.code, outcome.report["kind"]) == (1, "checkpoint")
        assert doctor(path, json=False).code == 1

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize(
        "name", ["noise", "m.pt", "s.nii", "s.nii.gz", "s.dcm", "s.nrrd", "s.mha", "m.onnx"]
    )
    def test_noise(self, doctor, tmp_path, name, seed):
        draw = random.Random(seed)
        for head in (b"", b"PK\3\4", b"\x1f\x8b\x08", b"\x80\x02", bytes(344) + b"n+1\0",
                     b"\x5c\1\0\0", bytes(128) + b"DICM"):  # fmt: skip
            (tmp_path / name).write_bytes(head + draw.randbytes(draw.choice((0, 3, 5000))))
            self.refused(doctor(tmp_path / name), (1, 2))

    def test_empty_things(self, doctor, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / "folder").mkdir()
        self.refused(doctor(tmp_path / "file"))
        self.refused(doctor(tmp_path / "folder"))
        (tmp_path / "folder/ctclip_vision").mkdir()
        assert doctor(tmp_path / "folder").code == 1

    @pytest.mark.parametrize("seed", range(12))
    def test_damaged_checkpoints(self, doctor, golden, tmp_path, seed):
        draw = random.Random(seed)
        content = bytearray(golden.checkpoint.read_bytes())
        tail = draw.random() < 0.5  # the archive's directory and pickle are where most can break
        for _ in range(draw.choice((1, 20, 400))):
            low = len(content) - 20_000 if tail else 0
            content[draw.randrange(low, len(content))] = draw.randrange(256)
        cut = draw.choice((len(content), draw.randrange(len(content))))
        (tmp_path / "c.pt").write_bytes(content[:cut])
        outcome = doctor(tmp_path / "c.pt", "--volume-shape", golden.volume_shape_flag)
        assert outcome.code in (0, 1)  # a flipped bit of a weight is still a weight

    @pytest.mark.parametrize(
        "pickled", [b"", b"\x80", b"\x80\x02]q\0.", b"\x80\x02}q\0.", b"(" * 99]
    )
    def test_archives_that_hold_no_state(self, doctor, tmp_path, pickled):
        with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
            archive.writestr("c/data.pkl", pickled)
            archive.writestr("c/version", "3\n")
        assert doctor(tmp_path / "c.pt").code == 1

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"\xff\xfe", b"{", b"[" * 100_000, b"null", b"[]", b"{}", b'{"release": 3}',
            b'{"release": {"geometry": []}, "file": 1}', b"\0" * 1000,
            b'{"file": "../../x", "file_sha256": "", "vocabulary_sha256": "", "release": '
            b'{"release": "r", "precision": "fp32", "checkpoint": {"name": "c", "random_weights": '
            b'false}, "geometry": {"volume_shape": [1,1,1], "token_shape": [1,1,1]}, '
            b'"findings": [], "prompts": []}}',
        ],
    )  # fmt: skip
    def test_damaged_records_and_configs(self, doctor, copied, content):
        for name in ("ctclip_check/1/provenance.json", "ctclip_vision/1/model.onnx",
                     "ctclip_text/config.pbtxt", "ctclip_zero_shot/config.pbtxt"):  # fmt: skip
            (copied / name).write_bytes(content)
        outcome = doctor(copied)
        assert outcome.code == 1
        assert outcome.titles("FAIL") >= {"file ctclip_check/1", "graph ctclip_vision/1"}

    def test_odd_things_where_files_should_be(self, doctor, copied):
        for name in ("ctclip_vision/1/model.onnx", "ctclip_check/1/provenance.json",
                     "ctclip_text/config.pbtxt"):  # fmt: skip
            (copied / name).unlink()
        (copied / "ctclip_vision/1/model.onnx").mkdir()
        os.mkfifo(copied / "ctclip_check/1/provenance.json")
        (copied / "ctclip_text/config.pbtxt").symlink_to("config.pbtxt")
        (copied / "ctclip_score/1/model.plan").mkdir()
        assert doctor(copied).code == 1

    def test_what_may_not_be_read(self, tmp_path):
        """In a process without root's right to read everything."""
        targets = [tmp_path / name for name in ("file.nii", "file.pt", "folder")]
        for path in targets[:2]:
            path.write_bytes(b"x")
        targets[2].mkdir()
        for path in targets:
            path.chmod(0)
        code = (
            "import os, sys\n"
            "from ctclip_client.cli.program import main\n"
            "import ctclip_client.doctor.examine\n"
            "main(['doctor', 'nothing'])\n"  # what is imported late may lie in root's home
            "if os.geteuid() == 0: os.setgroups([]); os.setegid(65534); os.seteuid(65534)\n"
            "print(*(main(['doctor', target]) for target in sys.argv[1:]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, targets), str(targets[2] / "inside")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        targets[2].chmod(0o755)
        assert (done.stdout, "Traceback" in done.stderr) == ("2 2 2 2\n", False), done.stderr
        assert done.stderr.count("Permission denied") == 4
