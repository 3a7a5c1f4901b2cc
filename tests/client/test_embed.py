"""`ctclip embed`: vectors of scans and of reports, in every form, and runs that go on."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ctclip_client import Client, InvalidInput, read_volume
from ctclip_client.batch.texts import read_reports
from ctclip_client.cli.program import main
from ctclip_server.embedded.server import EmbeddedTriton

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def embed(server: EmbeddedTriton, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str]:
        code = main(["embed", *map(str, arguments), "--url", server.grpc_url])
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err

    return run


def test_images_in_every_form(
    embed: Run, server: EmbeddedTriton, phantoms: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet

    scans = sorted(phantoms.iterdir())
    with Client(server.grpc_url) as client:
        expected = np.stack([client.encode_image(read_volume(scan)) for scan in scans])
    lines = tmp_path / "out.jsonl"
    for number in (2, len(scans)):  # the second run goes on
        code, err = embed("image", *scans[:number], "--out", lines, "--readers", 0)
        assert code == 0
    assert f"going on from {lines}: 2 done by release" in err
    assert "embedded, 0 failed, 2 done before" in err
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert sorted(row["path"] for row in rows) == list(map(str, scans))
    assert {"recipe", "release", "checkpoint_sha256", "transport", "sha256"} <= set(rows[0])
    vectors = np.fromfile(f"{lines}.f32", "<f4").reshape(-1, rows[0]["embedding_size"])
    for row in rows:
        at = scans.index(Path(row["path"]))
        np.testing.assert_allclose(vectors[row["embedding_row"]], expected[at], atol=1e-5)
    older = lines.read_text().replace(rows[0]["release"], "older")
    lines.write_text(older)
    code, err = embed("image", *scans, "--out", lines)
    assert code == 2
    assert f"of release older; the server has release {rows[0]['release']} now" in err
    assert lines.read_text() == older
    arrays, table = tmp_path / "out.npz", tmp_path / "out.parquet"
    for out in (arrays, table):
        assert embed("image", phantoms, "--out", out, "--readers", 1)[0] == 0
    columns = pyarrow.parquet.read_table(table).to_pydict()
    with np.load(arrays, allow_pickle=False) as found:
        assert found["path"].tolist() == list(map(str, scans))
        np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
        assert found["embedding"].dtype == np.float32
        assert not found["random_weights"].any()
        assert columns["path"] == list(map(str, scans))
        np.testing.assert_allclose(np.array(columns["embedding"]), expected, atol=1e-5)
        recipes = [row["recipe"] for row in rows]
        for name, values in (("hu_p5", found["hu_p5"]), ("hu_p5", columns["hu_p5"])):
            assert sorted(values) == sorted(each["hu_percentiles"]["5"] for each in recipes), name
        ends = [(found[f"seen_z_{end}_mm"][0], columns[f"seen_z_{end}_mm"][0])
                for end in ("from", "to")]  # fmt: skip
        assert ends == [(end, end) for end in recipes[0]["seen_mm"]["z"]]
    journals = [f"{name}.journal.jsonl{end}" for name in ("out.npz", "out.parquet")
                for end in ("", ".f32")]  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {
        "out.jsonl", "out.jsonl.f32", "out.npz", "out.parquet", *journals
    }  # fmt: skip


def test_reports(embed: Run, server: EmbeddedTriton, tmp_path: Path) -> None:
    reports, lines = tmp_path / "reports.csv", tmp_path / "out.jsonl"
    table = [
        ("a.nii.gz", 'The "heart" (is) large.', "Not given."),
        ("b.nii.gz", "Not given.", "Not given."),
        *((f"{number}", f"Nodule {number}.", "Patient's, again.") for number in range(70)),
    ]
    sent = ["The heart is large.", "", *(f"Nodule {n}.Patients, again." for n in range(70))]
    with reports.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("VolumeName", "Findings_EN", "Impressions_EN"), *table])
    with Client(server.grpc_url) as client:
        expected = client.encode_text(sent)
    code, err = embed("text", reports, "--out", lines)
    assert code == 0
    assert (
        f"{reports}: 72 texts from Findings_EN + Impressions_EN, named by column VolumeName" in err
    )
    content = lines.read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    assert [row["key"] for row in rows] == [key for key, *_ in table]
    assert "Nodule" not in lines.read_text()
    vectors = np.fromfile(f"{lines}.f32", "<f4").reshape(72, -1)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)

    # Goes on after a crash, and embeds anew what has changed.
    lines.write_bytes(b"".join(content.splitlines(keepends=True)[:70]) + b'{"pa')
    reports.write_text(reports.read_text("utf-8-sig").replace("Nodule 3.", "Mass."), "utf-8")
    code, err = embed("text", reports, "--out", lines)
    assert code == 0
    assert "plan: 3 texts to embed, 69 done already by release" in err
    (tmp_path / "one.txt").write_text("Clear.")
    code, err = embed("text", tmp_path / "one.txt", "--out", tmp_path / "one.jsonl")
    assert "plan: 1 text to embed" in err
    again = lines.read_text()
    lines.write_text(again.replace(rows[0]["release"], "older"))
    code, err = embed("text", reports, "--out", lines)
    assert code == 2
    assert "of release older; the server has release" in err
    lines.write_text(again)
    arrays = tmp_path / "out.npz"
    code, err = embed("text", reports, "--out", arrays, "--hash-names")
    assert (code, str(reports) in err) == (0, False)
    sent[5] = "Mass.Patients, again."
    with Client(server.grpc_url) as client, np.load(arrays) as found:
        np.testing.assert_allclose(found["embedding"], client.encode_text(sent), atol=1e-5)
        assert {len(key) for key in (*found["key"].tolist(), *found["path"].tolist())} == {64}
    last = {row["key"]: row for row in map(json.loads, lines.read_text().splitlines())}
    vectors = np.fromfile(f"{lines}.f32", "<f4").reshape(-1, expected.shape[1])
    np.testing.assert_allclose(vectors[last["3"]["embedding_row"]], found_row(arrays, 5), atol=1e-5)


def found_row(arrays: Path, row: int) -> object:
    with np.load(arrays) as found:
        return found["embedding"][row]


def test_other_texts_stay_as_they_are(tmp_path: Path) -> None:
    table, plain = tmp_path / "texts.csv", tmp_path / "texts.txt"
    table.write_text('text\n"A ""mass"" (big).\nNot given."\nNot given.\n')
    plain.write_text("A 'mass'.\n\nNone.\n")
    found = read_reports(table)
    assert [(report.key, report.text) for report in found.reports] == [
        ("1", 'A "mass" (big).\nNot given.'), ("2", "Not given."),
    ]  # fmt: skip
    assert found.taken == "text, named by the number of the row"
    found = read_reports(plain)
    assert [(report.key, report.text) for report in found.reports] == [
        ("1", "A 'mass'."), ("2", ""), ("3", "None."),
    ]  # fmt: skip


@pytest.mark.parametrize("odd", ["\u2028", "\x0b", "\x0c", "\x1c", "\u0085", "\u2029"])
def test_what_ends_no_line_stays_in_its_text(odd: str, tmp_path: Path) -> None:
    """csv.writer quotes none of these; reports that were pasted have them."""
    table, plain = tmp_path / "texts.csv", tmp_path / "texts.txt"
    table.write_bytes(f'key,text\r\n1,A{odd}mass.\r\n2,"No\r\n{odd}mass."\r\n'.encode())
    plain.write_bytes(f"A{odd}mass.\r\nNone.\rNo.\n".encode())
    assert [each.text for each in read_reports(table).reports] == [
        f"A{odd}mass.", f"No\r\n{odd}mass.",
    ]  # fmt: skip
    assert [each.text for each in read_reports(plain).reports] == [
        f"A{odd}mass.", "None.", "No.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no CSV with a header"), (b"a,b\nJane Doe,2\n", "none of its 2 columns"),
        (b"text\n", "no text in it"), (b"key,text\n1\n", "row 1 has 1 cells"),
        (b"key,text\n1,a\n1,b\n", "row 2 has the key of an earlier one"),
        (b"text,text\n1,a\n", "'text' is there twice"), (b"text\n\xff\n", "no UTF-8"),
        (b'text\n"a', "no CSV"), (None, "No such file"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_reports(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=said) as raised:
        read_reports(path)
    assert "Doe" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["image", "a.nii", "--out", "a.csv"], "its name says no format"),
        (["image", "a.npz", "--out", "a.npz"], "is one of the scans"),
        (["text", "a.csv.jsonl", "--out", "a.csv.jsonl"], "is one of the files of reports"),
        (["text", "a.csv", "--out", "a.jsonl", "--url", "u"], "expected host:port"),
        (["image", "a.nii", "--out", "a.jsonl", "--slope", "1"], "belong together"),
        (["image", "a.nii"], "--out"),
        (["text", "--out", "a.jsonl"], "REPORTS"),
        ([], "WORD"),
    ],
)
def test_usage_errors(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in arguments[1:2]:
        Path(name).write_text("there")
    try:
        code = main(["embed", *arguments])
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == len(arguments[1:2])
