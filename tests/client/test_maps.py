"""Relevance maps on disk: where they lie in the patient, what they say, and what they must not.

Everything is read back by nibabel, through the affine that a viewer would use.
"""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from ctclip_client import Client, Explanation, InvalidInput, Volume, read_volume, save_relevance
from ctclip_client.contract import PUBLISHED_FINDINGS
from ctclip_client.maps.relevance import INDEX_FILE, TOKENS_FILE
from ctclip_export.checkpoint import Checkpoint
from ctclip_export.precision.products import dense_products
from ctclip_server.embedded.server import EmbeddedTriton

from ..dicom_files import slices, write
from ..nifti_files import save_placed as save

TOKEN_MM = 15.0
"""Edge of a token of the golden geometry in all directions: 10 × 1.5 mm and 20 × 0.75 mm."""
SHAPE, SPACING_MM = (69, 47, 50), (0.75, 1.75, 1.0)  # (x, y, z) of the phantom
# Patient space (R, A, S), mm from the centre of the scan; each in the middle of a token. Together
# they tell the right affine from every set of flips and exchange of axes.
SPOTS = [(15.0, -15.0, -7.0), (-15.0, 15.0, 23.0), (-15.0, -30.0, -7.0)]
CODES = ["LPS", "LAS", "RAS", "SLP", "PIR"]
Array = NDArray[Any]


@pytest.fixture(scope="module")
def client(
    checkpoint: Checkpoint, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """The golden release, except that tokens do not see each other.

    Random attention spreads a change over all tokens, so that nobody could tell where it was made.
    Without it a token's code depends on its own voxels alone, and the changed ones can be counted.
    """
    folder = tmp_path_factory.mktemp("apart") / "model_repository"
    shutil.copytree(repository, folder)
    path = folder / "ctclip_vision" / "1" / "model.onnx"
    model = onnx.load(path)
    layers = dense_products(model.graph, checkpoint.model.vision)
    mixing = {
        node.input[1]
        for node in model.graph.node
        if layers.get(node.name, "").endswith("attention.to_out")
        or (node.op_type == "Conv" and "token_conv" in node.input[1])
    }
    assert len(mixing) == 2 * 4  # of each block
    for tensor in model.graph.initializer:
        if tensor.name in mixing:
            zeros = np.zeros_like(onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, path)
    with EmbeddedTriton(folder) as server, Client(server.grpc_url) as client:
        yield client


def phantom(spot: tuple[float, ...] | None = None) -> tuple[Array, Array]:
    """Voxels (x, y, z) and an L-P-S affine off the origin; 52 × 82 × 50 mm.

    The model sees 45 × 75 × 60 mm of it: two axes are cropped and one is padded, by odd numbers.
    spot: the centre of a cube, as large as a token: half air, half bone. Noise would not do, a
    token of other noise can have the same code.
    """
    random = np.random.default_rng(7)
    hu = random.choice([-900, -850, 0, 60], SHAPE) + random.integers(-9, 10, SHAPE)
    affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    affine[:3, 3] = 31.0, -12.0, 107.0
    if spot is not None:
        places = apply_affine(affine, np.stack(np.indices(SHAPE), -1)) - centre(affine, SHAPE)
        inside = np.abs(places - spot).max(-1) < TOKEN_MM / 2
        hu[inside] = np.where((places - spot)[..., 2] > 0, -1000, 900)[inside]
    return hu.astype(np.int16), affine


def centre(affine: Array, shape: tuple[int, ...]) -> Array:
    place: Array = apply_affine(affine, (np.array(shape) - 1) / 2)
    return place


@pytest.fixture
def explained(client: Client, tmp_path: Path) -> Callable[..., tuple[Explanation, Path]]:
    """Explain a file, save the maps; give the explanation and their folder."""

    def explain(path: Path, **options: Any) -> tuple[Explanation, Path]:
        volume = read_volume(path, **options)
        explanation = client.explain(volume)
        folder = tmp_path / f"maps of {path.name}"
        assert save_relevance(explanation, volume, folder) == folder / INDEX_FILE
        return explanation, folder

    return explain


def load(path: Path) -> tuple[Array, Array]:
    image = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti1Image)
    assert image.get_data_dtype() == np.float32
    return np.asarray(image.dataobj), image.affine


def shows(changed: Array, affine: Array, spot: Array) -> bool:
    """Whether the tokens that the planted cube fills have changed, and none that it does not touch.

    changed: bool (i, j, k). spot: (R, A, S) in mm. Codes are discrete: a token that the cube covers
    in part may keep its own. The cube is as large as a token, so one at least is half covered along
    every axis. Voxels are up to 1.75 mm wide, and are interpolated between neighbours.
    """
    places = apply_affine(affine, np.stack(np.indices(changed.shape), -1))
    overlap_mm = (TOKEN_MM - np.abs(places - spot)).min(-1)
    filled, untouched = overlap_mm > 0.45 * TOKEN_MM, overlap_mm < -1.75
    return bool(filled.any() and changed[filled].all() and not changed[untouched].any())


def mistaken(affine: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """The affines of every mistake that is made: each set of flips, each exchange of axes."""
    for flips in itertools.product((1, -1), repeat=3):
        change = np.diag([*flips, 1.0])
        change[:3, 3] = [n - 1 if f < 0 else 0 for n, f in zip(shape, flips, strict=True)]
        for order in itertools.permutations(range(3)):
            wrong = affine @ change
            wrong[:3, :3] = wrong[:3, order]
            if not np.array_equal(wrong, affine):
                yield wrong


@pytest.mark.parametrize("codes", CODES)
def test_what_is_planted_is_found_where_it_was_planted(
    codes: str, explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    _, without = explained(save(tmp_path / "without.nii.gz", *phantom(), codes))
    before, affine = load(without / TOKENS_FILE)
    assert nibabel.aff2axcodes(affine) == tuple(codes)
    unseen = list(mistaken(affine, before.shape[:3]))
    for index, spot in enumerate(SPOTS):
        hu, lps = phantom(spot)
        path = save(tmp_path / f"{index}.nii", hu, lps, codes)
        _, folder = explained(path)
        after, affine_after = load(folder / TOKENS_FILE)
        np.testing.assert_array_equal(affine_after, affine)
        # All tokens are divided by the norm of the whole embedding, which changes, too.
        rescaled = before * np.median(after / before)
        changed = (np.abs(after - rescaled) > 1e-3 * np.abs(before).max()).any(-1)
        assert 1 <= changed.sum() <= 8
        place = centre(lps, hu.shape) + spot
        assert shows(changed, affine, place)
        unseen = [wrong for wrong in unseen if shows(changed, wrong, place)]
    assert unseen == []


@pytest.mark.parametrize("codes", CODES)
def test_a_findings_file_is_the_tokens_on_the_scans_own_voxels(
    codes: str, explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    path = save(tmp_path / "scan.nii.gz", *phantom(), codes)
    explanation, folder = explained(path)
    scan = nibabel.load(path)
    tokens, token_affine = load(folder / TOKENS_FILE)
    index = json.loads((folder / INDEX_FILE).read_text())
    assert [entry["finding"] for entry in index["findings"]] == list(explanation.findings)
    places = apply_affine(scan.affine, np.stack(np.indices(scan.shape), -1))
    nearest = apply_affine(np.linalg.inv(token_affine), places)
    for entry in index["findings"][::6]:
        image = nibabel.load(folder / entry["file"])
        assert image.shape == scan.shape
        np.testing.assert_array_equal(image.affine, scan.affine)
        for form in ("get_sform", "get_qform"):
            (got, code), (wanted, wanted_code) = (
                getattr(one, form)(coded=True) for one in (image, scan)
            )
            assert code == wanted_code
            if code:
                np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(image.header.get_zooms(), scan.header.get_zooms())
        values = np.asarray(image.dataobj)
        padded = np.pad(tokens[..., entry["index"]], 1)
        at = np.clip(np.rint(nearest).astype(int) + 1, 0, np.array(padded.shape) - 1)
        # A voxel whose centre lies on the face between two tokens may belong to either.
        clear = (np.abs(np.abs(nearest - np.rint(nearest)) - 0.5) > 1e-4).all(-1)
        np.testing.assert_array_equal(values[clear], padded[tuple(at.T)].T[clear])
        assert clear.mean() > 0.9
        assert (values == 0).any()  # cropped away
        assert image.header["cal_max"] == -image.header["cal_min"] == np.abs(values).max() or (
            np.abs(values).max() < image.header["cal_max"]
        )
        gzip.decompress((folder / entry["file"]).read_bytes())  # to its end, checksum and all


@pytest.mark.parametrize("plane", ["RA", "PI"])
def test_maps_of_a_dicom_series_lie_where_those_of_its_nifti_do(
    plane: str, explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    hu, affine = phantom()
    affine[:3, 3] = 100, 90, -500  # where `slices` begins
    x, y, z = SPACING_MM
    series = write(
        tmp_path / "series", slices(hu.transpose(2, 0, 1), (z, x, y), plane, rescale=(1, 0))
    )
    codes = read_volume(series).source.orientation
    assert codes[:2] == plane
    _, of_series = explained(series)
    _, of_nifti = explained(save(tmp_path / "scan.nii", hu, affine, codes))
    for name in (TOKENS_FILE, "relevance-10-lung-nodule.nii.gz"):
        (got, got_affine), (wanted, wanted_affine) = load(of_series / name), load(of_nifti / name)
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_allclose(got_affine, wanted_affine, rtol=0, atol=1e-4)


def test_numbers_are_the_servers(
    explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    explanation, folder = explained(save(tmp_path / "scan.nii", *phantom(), "LPS"))
    tokens, _ = load(folder / TOKENS_FILE)
    np.testing.assert_array_equal(tokens, explanation.relevance.transpose(2, 3, 1, 0))
    index = json.loads((folder / INDEX_FILE).read_text())
    difference = explanation.logits[:, 0] - explanation.logits[:, 1]
    assert len(index["findings"]) == 18
    for entry, wanted in zip(index["findings"], difference.tolist(), strict=True):
        assert entry["logit_difference"] == pytest.approx(wanted, abs=1e-5)
        assert entry["sum_of_tokens"] == pytest.approx(wanted, abs=1e-3)
        assert entry["sum_outside_of_scan"] == 0  # 5 mm of padding, less than a token
    assert index["tokens"] == {
        "file": TOKENS_FILE, "axes": ["i", "j", "k", "finding"], "shape": [3, 5, 4, 18],
        "placed": True,
    }  # fmt: skip
    assert index["provenance"]["release"] == explanation.provenance.release
    assert "warning" not in index
    names = [entry["file"] for entry in index["findings"]]
    assert names[9] == "relevance-10-lung-nodule.nii.gz"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [INDEX_FILE, TOKENS_FILE, *names]
    )
    assert len(names) == len(PUBLISHED_FINDINGS)


def test_padding_of_whole_tokens_is_told_apart(
    explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    hu, affine = phantom()
    _, folder = explained(save(tmp_path / "scan.nii", hu[..., :25], affine, "RAS"))
    tokens, token_affine = load(folder / TOKENS_FILE)
    index = json.loads((folder / INDEX_FILE).read_text())
    # 25 mm in the middle of 60: of four slabs of 15 mm, the two outer ones hold nothing.
    places = apply_affine(token_affine, np.stack(np.indices(tokens.shape[:3]), -1))
    beyond = np.abs(places - centre(affine, (69, 47, 25)))[..., 2] > 20
    assert beyond.mean() == 0.5
    for entry in index["findings"]:
        wanted = tokens[beyond, entry["index"]].sum(dtype=float)
        assert entry["sum_outside_of_scan"] == pytest.approx(wanted, abs=1e-6)
        assert abs(wanted) > 0


@pytest.mark.parametrize("forms", [(1, 0), (0, 1), (4, 2)], ids=["qform", "sform", "both"])
def test_both_placements_of_a_header_are_kept(
    forms: tuple[int, int], explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    """Viewers differ in which one they prefer; whichever it is, the map lies on the scan."""
    qcode, scode = forms
    hu, affine = phantom()
    angle = np.radians(6)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    image = nibabel.Nifti1Image(hu, None)
    moved = turn @ affine
    moved[:3, 3] += 4, 5, 6
    image.set_qform(turn @ affine, qcode)
    image.set_sform(moved, scode)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "scan.nii")
    scan = nibabel.load(tmp_path / "scan.nii")
    _, folder = explained(tmp_path / "scan.nii")
    names = [TOKENS_FILE, "relevance-01-medical-material.nii.gz"]
    for name in names:
        got = nibabel.load(folder / name)
        assert (int(got.header["qform_code"]), int(got.header["sform_code"])) == forms
        for form, code in (("get_qform", qcode), ("get_sform", scode)):
            if code == 0:
                continue
            ours, theirs = getattr(got, form)(), getattr(scan, form)()
            # Both put the middle of the model's volume (within half a voxel of it) in one place.
            middle = apply_affine(ours, (np.array(got.shape[:3]) - 1) / 2)
            assert np.abs(middle - centre(theirs, SHAPE)).max() < 1.5
            directions = [
                one[:3, :3] / np.linalg.norm(one[:3, :3], axis=0) for one in (ours, theirs)
            ]
            np.testing.assert_allclose(*directions, rtol=0, atol=1e-5)


def test_a_file_without_orientation_keeps_none(
    explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    hu, _ = phantom()
    image = nibabel.Nifti1Image(hu, None)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "blank.nii")
    explanation, folder = explained(
        tmp_path / "blank.nii", as_stored=True, spacing_mm=(1.0, 0.75, 1.75)
    )
    assert json.loads((folder / INDEX_FILE).read_text())["tokens"]["placed"] is False
    for path in folder.glob("*.nii.gz"):
        header = nibabel.load(path).header
        assert int(header["sform_code"]) == int(header["qform_code"]) == 0
    tokens, _ = load(folder / TOKENS_FILE)
    np.testing.assert_array_equal(tokens, explanation.relevance.transpose(2, 3, 1, 0))
    assert load(folder / "relevance-18-interlobular-septal-thickening.nii.gz")[0].shape == SHAPE


def test_nothing_of_the_patient_comes_along(
    explained: Callable[..., tuple[Explanation, Path]], tmp_path: Path
) -> None:
    hu, affine = phantom()
    image = nibabel.Nifti1Image(hu, affine)
    word = b"DOE^JANE"
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = word
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", word))
    nibabel.save(image, tmp_path / "scan.nii")
    assert (tmp_path / "scan.nii").read_bytes().count(word) == 5
    _, folder = explained(tmp_path / "scan.nii")
    for path in folder.iterdir():
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        assert b"DOE" not in content
        assert str(tmp_path).encode() not in content
    volume = read_volume(tmp_path / "scan.nii")
    assert "grid" not in json.dumps(volume.recipe()) + repr(volume.source)


def test_random_weights_are_named_in_every_file(client: Client, tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii", *phantom()))
    explanation = client.explain(volume)
    demo = replace(explanation, provenance=replace(explanation.provenance, random_weights=True))
    save_relevance(demo, volume, tmp_path / "maps")
    assert json.loads((tmp_path / "maps" / INDEX_FILE).read_text())["warning"] == "RANDOM WEIGHTS"
    for path in (tmp_path / "maps").glob("*.nii.gz"):
        assert b"RANDOM WEIGHTS" in bytes(nibabel.load(path).header["descrip"])


def test_maps_need_a_file_and_a_folder(client: Client, tmp_path: Path) -> None:
    volume = read_volume(save(tmp_path / "scan.nii", *phantom()))
    explanation = client.explain(volume)
    array = Volume.from_array(volume.voxels, volume.spacing_mm, volume.rescale)
    with pytest.raises(InvalidInput, match="made from an array"):
        save_relevance(explanation, array, tmp_path / "maps")
    with pytest.raises(InvalidInput, match=r"scan\.nii: cannot be written"):
        save_relevance(explanation, volume, tmp_path / "scan.nii")
    other = replace(explanation, relevance=explanation.relevance[:, :2])
    with pytest.raises(InvalidInput, match=r"got \(18, 2, 3, 5\), expected tokens \(4, 3, 5\)"):
        save_relevance(other, volume, tmp_path / "maps")
    # What an earlier run has left is not taken for this one's when it fails half way.
    index = save_relevance(explanation, volume, tmp_path / "maps")
    (tmp_path / "maps" / TOKENS_FILE).unlink()
    (tmp_path / "maps" / TOKENS_FILE).mkdir()
    with pytest.raises(InvalidInput, match=f"{TOKENS_FILE}: cannot be written"):
        save_relevance(explanation, volume, tmp_path / "maps")
    assert not index.exists()
    assert not [path for path in (tmp_path / "maps").iterdir() if path.name.startswith(".")]
