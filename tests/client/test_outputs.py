"""Where results go: what lies under the names that were given stays whole, or what it is."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from ctclip_client.cli.program import main
from ctclip_client.errors import InvalidInput
from ctclip_client.maps.relevance import INDEX_FILE, TOKENS_FILE, _forget
from ctclip_client.system.files import NoRegularFile, placed, whole_file
from ctclip_server.embedded.server import EmbeddedTriton

from ..nifti_files import chest, save


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


class TestPlaced:
    def test_a_link_stays_and_what_it_points_to_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        target, link = tmp_path / "there" / "file", tmp_path / "link"
        target.write_text("old")
        link.symlink_to("there/file")
        with placed(link) as file:
            file.write(b"new")
        assert link.is_symlink()
        assert target.read_text() == "new"
        assert [path.name for path in target.parent.iterdir()] == ["file"]

    def test_a_link_to_nothing_yet(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("file")
        with placed(tmp_path / "link") as file:
            file.write(b"new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "file").read_text() == "new"

    def test_a_name_may_be_as_long_as_a_disk_allows(self, tmp_path: Path) -> None:
        path = tmp_path / ("\u00fc" * 125 + ".html")
        with placed(path) as file:
            file.write(b"new")
        assert [each.name for each in tmp_path.iterdir()] == [path.name]

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("link")
        with pytest.raises(OSError, match="symbolic links"), placed(tmp_path / "link"):
            pass
        assert (tmp_path / "link").is_symlink()

    @pytest.mark.parametrize("through_a_link", [False, True])
    def test_a_pipe_is_refused_and_stays(self, through_a_link: bool, tmp_path: Path) -> None:
        path = pipe = fifo(tmp_path / "pipe")
        if through_a_link:
            path = tmp_path / "link"
            path.symlink_to("pipe")
        with pytest.raises(NoRegularFile, match=r"a pipe \(FIFO\) is there"), placed(path):
            pass
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert len(list(tmp_path.iterdir())) == 1 + through_a_link

    def test_so_is_a_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
            with pytest.raises(NoRegularFile, match="a socket is there"), placed(Path("socket")):
                pass
            assert stat.S_ISSOCK(Path("socket").stat().st_mode)


@pytest.mark.parametrize("option", ["--csv", "--jsonl"])
class TestPredict:
    def test_a_pipe_is_refused_before_anything_is_scored(
        self, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        scan, pipe = save(tmp_path / "scan.nii", chest()), fifo(tmp_path / "out")
        assert main(["predict", str(scan), option, str(pipe), "--url", "localhost:1"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {option}: {pipe}: a pipe (FIFO) is there")
        assert "--json" in said.splitlines()[1]
        assert stat.S_ISFIFO(pipe.stat().st_mode)
        assert sorted(tmp_path.iterdir()) == [pipe, scan]

    def test_a_link_stays(self, option: str, misbehaving: EmbeddedTriton, tmp_path: Path) -> None:
        scan = save(tmp_path / "scan.nii", chest(), (1.0, 0.7, 0.8))
        (tmp_path / "there").mkdir()
        target, link = tmp_path / "there" / "out", tmp_path / "link"
        if option == "--csv":  # a journal goes on, and nothing else of its name is lost
            target.write_text("old")
        link.symlink_to(target)
        assert main(["predict", str(scan), option, str(link), "--url", misbehaving.grpc_url]) == 0
        assert link.is_symlink()
        assert str(scan) in target.read_text()
        assert [path.name for path in target.parent.iterdir()] == ["out"]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "names",
    [
        ("out", "out"), ("out", "./out"), ("out", "sub/../out"), ("out", "sub/back/out"),
        ("out", "link"), ("there", "link-to-there"), ("there", "hard"), ("link", "link"),
        ("out", "out.journal.jsonl"), ("out.f32", "out"),
        ("there.journal.jsonl.f32", "link-to-there"),
    ],
)  # fmt: skip
def test_two_outputs_are_two_files(
    names: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    scan = save(tmp_path / "scan.nii", chest())
    Path("sub").mkdir()
    Path("sub/back").symlink_to("..")
    Path("there").write_text("old")
    Path("hard").hardlink_to("there")
    Path("link-to-there").symlink_to("there")
    Path("link").symlink_to("out")
    before = contents(tmp_path)
    for first, second in (names, names[::-1]):
        flags = ["--csv", first, "--jsonl", second, "--url", "localhost:1"]
        assert main(["predict", str(scan), *flags]) == 2
        assert "the file of --jsonl, which would be lost" in capsys.readouterr().err
    assert contents(tmp_path) == before


def test_no_output_replaces_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scans, prompts and the files of the connection, also named by a variable or by links."""
    monkeypatch.chdir(tmp_path)
    scan = save(tmp_path / "scan.nii", chest())
    for name in ("prompts.json", "headers", "ca.pem", "scan.csv.journal.jsonl"):
        Path(name).write_text("precious")
    Path("link").symlink_to("scan.nii")
    Path("hard").hardlink_to("scan.nii")
    monkeypatch.setenv("CTCLIP_HEADERS_FILE", "headers")
    before = contents(tmp_path)
    read = ["--prompts", "prompts.json", "--tls-ca", "ca.pem", "--url", "localhost:1"]
    for option in ("--csv", "--jsonl"):
        for name, what in (
            ("scan.nii", "one of the scans"), ("link", "one of the scans"),
            ("hard", "one of the scans"), ("scan.csv", "one of the scans"),
            ("prompts.json", "the file of --prompts"), ("ca.pem", "the file of --tls-ca"),
            ("headers", "the file of CTCLIP_HEADERS_FILE"),
        ):  # fmt: skip
            scans = [str(scan), "scan.csv.journal.jsonl"]
            assert main(["predict", *scans, option, name, *read]) == 2
            said = capsys.readouterr().err
            assert said.startswith(f"error: {option}: {name}: is {what}, which would be lost.")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["maps", "maps/a", "maps/a/scan", "maps/a/scan/relevance.json"])
def test_no_output_lies_among_the_maps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in place of a folder that --explain will make nor of what it will put there."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b", Path(name).parent):
        Path(folder).mkdir(parents=True, exist_ok=True)
    scans = [str(save(Path(folder) / "scan.nii", chest())) for folder in ("a", "b")]
    for option in ("--csv", "--jsonl"):
        flags = ["--explain", "maps", option, name, "--url", "localhost:1"]
        assert main(["predict", *scans, *flags]) == 2
        assert f"{option}: {name} is where --explain puts its maps" in capsys.readouterr().err
    assert not Path(name).exists()


class TestMaps:
    def test_a_pipe_among_them_is_refused_and_stays(self, tmp_path: Path) -> None:
        pipe = fifo(tmp_path / TOKENS_FILE)
        with (
            pytest.raises(InvalidInput, match=rf"{TOKENS_FILE}: cannot be written: a pipe"),
            whole_file(pipe),
        ):
            pass
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_one_in_place_of_the_index_is_not_taken_away(self, tmp_path: Path) -> None:
        pipe = fifo(tmp_path / INDEX_FILE)
        with pytest.raises(InvalidInput, match=rf"{INDEX_FILE}: cannot be written: a pipe"):
            _forget(tmp_path)
        assert stat.S_ISFIFO(pipe.stat().st_mode)

    def test_an_index_behind_a_link_is_forgotten_and_the_link_stays(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_text("{}")
        (tmp_path / INDEX_FILE).symlink_to("elsewhere")
        _forget(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [INDEX_FILE]
