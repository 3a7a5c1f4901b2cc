"""The self-check: what passes, what does not, and which files are none."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ctclip_client.contract import CHECK
from ctclip_client.release import self_check as module
from ctclip_client.release.self_check import (
    SelfCheck,
    Tolerance,
    precision_in_force,
    read_self_check,
)
from ctclip_client.system.processor import processor, processor_name


@pytest.fixture
def check() -> SelfCheck:
    return SelfCheck(
        release="0123456789abcdef",
        precision="fp32",
        volume=np.arange(24, dtype=np.int16).reshape(2, 3, 4),
        spacing=np.array([9.0, 7.5, 7.5]),
        rescale=np.array([1, -1024], np.float32),
        prompts=("Ödem is present.", "Ödem is not present."),
        image_embedding=np.array([[0.6, 0.8]], np.float32),
        logits=np.array([[[1.0, 0.0]]], np.float32),
        tolerances={
            "fp32": Tolerance(cosine=0.9999, probability=1e-3, logit=0.02),
            "bf16": Tolerance(cosine=0.999, probability=0.01, logit=0.2),
        },
    )


def answer(check: SelfCheck, **changes: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "IMAGE_EMBEDDING": check.image_embedding,
        "LOGITS": check.logits,
        "PROBABILITIES": check.probabilities,
        "PROVENANCE": np.array([json.dumps({"release": check.release}).encode()], object),
    } | changes


def write(check: SelfCheck, path: Path) -> Path:
    with path.open("wb") as file:
        check.write(file)
    return path


def test_it_is_read_as_it_was_written(check: SelfCheck, tmp_path: Path) -> None:
    found = read_self_check(write(check, tmp_path / "a.npz"))
    for field in dataclasses.fields(SelfCheck):
        expected, got = getattr(check, field.name), getattr(found, field.name)
        np.testing.assert_array_equal(got, expected)
        assert getattr(got, "dtype", None) == getattr(expected, "dtype", None)
    again = write(found, tmp_path / "b.npz")
    assert again.read_bytes() == (tmp_path / "a.npz").read_bytes()


def test_the_reference_itself_passes(check: SelfCheck) -> None:
    found = check.compare(answer(check), "fp32")
    assert found.problems == ()
    assert (found.cosine, found.logit, found.probability) == pytest.approx((1, 0, 0))
    np.testing.assert_allclose(check.probabilities, [[1 / (1 + np.exp(-1.0))]], rtol=1e-6)


def test_what_another_version_of_a_runtime_changes_passes(check: SelfCheck) -> None:
    """ONNX Runtime 1.24 against 1.32: 4 of 13,824 codes, and probabilities by 1e-4."""
    turned = np.array([[0.6 - 4e-3, 0.8 + 3e-3]], np.float32)
    changed = check.probabilities + np.float32(1e-4)
    got = answer(check, IMAGE_EMBEDDING=turned, PROBABILITIES=changed)
    found = check.compare(got, "fp32")
    assert found.problems == ()
    assert found.cosine < 0.99999


@pytest.mark.parametrize(
    ("name", "array", "problem"),
    [
        ("IMAGE_EMBEDDING", [[0.8, 0.6]], "cosine of the embedding 0.96"),
        ("IMAGE_EMBEDDING", [[0.63, 0.84]], "cosine of the embedding 0.99875"),  # length 1.05
        ("IMAGE_EMBEDDING", [[0.6, np.nan]], "IMAGE_EMBEDDING holds NaN"),
        ("IMAGE_EMBEDDING", [[0.6, 0.8, 0.0]], r"IMAGE_EMBEDDING is \[1, 3\], expected \[1, 2\]"),
        ("LOGITS", [[[1.1, 0.1]]], r"\|Δlogit\| 1.0e-01, allowed 2.0e-02"),
        ("LOGITS", [[[np.inf, 0.0]]], "LOGITS holds NaN or infinite"),
        ("PROBABILITIES", [[0.74]], r"\|Δprobability\| 8.9e-03, allowed 0.001"),
        ("PROBABILITIES", [[np.nan]], "PROBABILITIES holds NaN"),
    ],
)
def test_what_is_out_of_bounds_is_named(
    check: SelfCheck, name: str, array: list[object], problem: str
) -> None:
    got = answer(check, **{name: np.array(array, np.float32)})
    (found,) = check.compare(got, "fp32").problems
    assert re.search(problem, found), found


def test_an_answer_that_lacks_an_output_fails(check: SelfCheck) -> None:
    got = answer(check)
    del got["PROBABILITIES"]
    assert check.compare(got, "fp32").problems == ("PROBABILITIES is nothing, expected [1, 1]",)


def test_the_answer_has_to_name_the_release(check: SelfCheck) -> None:
    assert check.judge(answer(check), "fp32").problems == ()
    for text, problem in (
        (b'{"release": "another"}', "release another answers, the self-check is of 0123456789abc"),
        (b"{}", "PROVENANCE names no release"),
        (b'{"release": {}}', "release {} answers"),
        (b"[1]", "PROVENANCE names no release"),
        (b"\xff", "PROVENANCE names no release"),
    ):
        got = answer(check, PROVENANCE=np.array([text], object))
        (found,) = check.judge(got, "fp32").problems
        assert found.startswith(problem)
    got = answer(check)
    del got["PROVENANCE"]
    assert check.judge(got, "fp32").problems


def test_bounds_are_those_of_the_precision(check: SelfCheck) -> None:
    got = answer(check, PROBABILITIES=check.probabilities + np.float32(5e-3))
    assert check.compare(got, "fp32").problems
    assert not check.compare(got, "bf16").problems


@pytest.mark.parametrize(
    ("release", "backend", "hint", "expected"),
    [
        ("fp32", "onnxruntime", "", "fp32"),
        ("fp32", "openvino", "", "fp32"),
        ("fp32", "openvino", "YES", "bf16"),
        ("fp16", "openvino", "yes", "bf16"),
        ("bf16", "openvino", "YES", "bf16"),
        ("int8", "openvino", "YES", "int8"),
        ("fp32", "onnxruntime", "YES", "fp32"),
        ("fp16", "tensorrt", "", "fp16"),
    ],
)
def test_the_precision_in_force(release: str, backend: str, hint: str, expected: str) -> None:
    assert precision_in_force(release, backend, hint) == expected


def _with(path: Path, **arrays: object) -> bytes:
    """The file with some of its arrays replaced, or left out where None is given."""
    with np.load(path) as old:
        kept = {name: old[name] for name in old.files} | arrays
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in kept.items() if array is not None})
    return buffer.getvalue()


def test_damage_is_refused_and_nothing_executed(check: SelfCheck, tmp_path: Path) -> None:
    path = write(check, tmp_path / "self_check.npz")
    whole = path.read_bytes()
    about = json.loads(str(np.load(path)["ABOUT"]))
    npy = io.BytesIO()
    np.save(npy, np.zeros(3))

    def with_about(**changes: object) -> bytes:
        return _with(path, ABOUT=np.array(json.dumps(about | changes)))

    with zipfile.ZipFile(huge := io.BytesIO(), "w") as archive:
        header = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (2**60,)}
        with archive.open("ABOUT.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header)
    flipped = bytearray(whole)
    flipped[whole.index(b"VOLUME.npy") + 40] ^= 0xFF
    for content in (
        b"", b"no archive", whole[: len(whole) // 2], bytes(flipped), npy.getvalue(),
        _with(path, VOLUME=None),
        _with(path, VOLUME=np.array([print], object)),  # a pickle
        _with(path, VOLUME=np.zeros((2, 2, 2))),
        _with(path, VOLUME=np.zeros((0, 2, 2), np.int16)),
        _with(path, LOGITS=np.zeros((1, 2, 2), np.float32)),
        _with(path, PROMPTS=np.array([], str)),
        with_about(format=2), with_about(tolerances={}), with_about(tolerances={"fp32": {}}),
        with_about(precision="fp8"), with_about(tolerances={"fp32": about["tolerances"]["fp32"]}),
        with_about(tolerances={name: {"cosine": 10**400} for name in ("fp32", "bf16")}),
        _with(path, ABOUT=np.array("[" * 100_000)),
        _with(path, PROMPTS=np.array(["\ud800", "a"])),
        huge.getvalue(),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"self_check\.npz: no self-check that can be read"):
            read_self_check(path)


def test_an_archive_that_unpacks_to_gigabytes_is_refused(
    check: SelfCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(check, tmp_path / "self_check.npz")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("MORE.npy", bytes(200_000))
    monkeypatch.setattr(module, "_LARGEST_BYTES", 100_000)
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="it unpacks to too much"):
        read_self_check(path)


def test_a_pipe_does_not_make_it_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "self_check.npz")
    with pytest.raises(ValueError, match="no regular file"):
        read_self_check(tmp_path / "self_check.npz")


def test_none_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "self_check.npz"
    with pytest.raises(FileNotFoundError):
        read_self_check(path)
    path.symlink_to("nowhere")
    with pytest.raises(ValueError, match="no regular file"):
        read_self_check(path)


def test_it_lies_beside_the_model_of_the_contract() -> None:
    """The module stands alone in the container's image, so it spells the name itself."""
    assert CHECK.name == module.MODEL


def test_the_processor_is_told_with_what_matters() -> None:
    told = processor()
    assert told.startswith(processor_name())
    assert "AVX2" in told
