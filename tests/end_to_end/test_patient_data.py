"""What a DICOM header says of a patient stays in the header."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyarrow.parquet
import pytest
from pydicom import config
from pydicom.dataset import Dataset

from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

from ..client.test_dicom import STORED
from ..client.test_series import MARKER, marked
from ..dicom_files import moved, slices, write


@contextmanager
def overheard(url: str) -> Iterator[tuple[str, list[bytes]]]:
    """An address that leads to `url`, and all bytes that pass, either way."""
    host, _, port = url.rpartition(":")
    heard: list[bytes] = []
    threads: list[threading.Thread] = []
    ends = ExitStack()

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):  # one end may go before the other, or without a word
            while data := source.recv(1 << 16):
                heard.append(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            try:
                ours, _ = listener.accept()
            except OSError:  # closed
                return
            theirs = socket.create_connection((host, int(port)))
            ends.enter_context(ours)
            ends.enter_context(theirs)
            for pair in ((ours, theirs), (theirs, ours)):
                threads.append(threading.Thread(target=pass_on, args=pair))
                threads[-1].start()

    with socket.create_server(("localhost", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield f"localhost:{listener.getsockname()[1]}", heard
        listener.shutdown(socket.SHUT_RDWR)
    for thread in (accepting, *threads):
        thread.join(60)
        assert not thread.is_alive()
    ends.close()


def test_nothing_of_a_header_is_in_wire_log_or_outputs(
    server: EmbeddedTriton,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of a scan that is scored, and of one that is refused."""
    scans, out = tmp_path / "scans", tmp_path / "out"
    out.mkdir()
    tilt = moved(lambda n: (0, 0.5 * n, 0))

    def marked_and_tilted(data: Dataset, n: int) -> None:
        marked(data, n)
        tilt(data, n)

    with config.disable_value_validation():
        write(scans / "1", slices(STORED, change=marked))
        write(scans / "2", slices(STORED, study=2, change=marked_and_tilted))
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    for path in scans.rglob("IM*"):
        assert MARKER.encode() in path.read_bytes()
    files = ["--jsonl", str(out / "a.jsonl"), "--csv", str(out / "a.csv")]
    files += ["--parquet", str(out / "a.parquet"), "--report", str(out / "pages")]
    with overheard(server.grpc_url) as (url, heard):
        asked = [str(scans), "--url", url, "--readers", "0"]
        assert main(["predict", *asked, "--json", *files]) == 3
        assert main(["embed", "image", *asked, "--out", str(out / "b.npz")]) == 3
    said = [*capfd.readouterr(), server.log.read_text() if server.log else ""]
    written = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    wire = b"".join(heard)
    assert all(said)
    assert len(written) == 8
    assert b"ctclip_explain" in wire
    told = [*said, caplog.text, repr(pyarrow.parquet.read_table(out / "a.parquet").to_pylist())]
    for each in (wire, *written, *(text.encode() for text in told)):
        for word in (b"MARKER", b"PATIENT"):
            assert word not in each
