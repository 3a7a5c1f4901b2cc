"""A model repository: the export's own is whole, and every planted fault is found by name."""

from __future__ import annotations

import hashlib
import re
import shutil

import onnx
import pytest

from ctclip_client.release.digest import sha256
from ctclip_client.release.engines import EngineRecord
from ctclip_client.release.repository import read_repository
from ctclip_client.release.self_check import FILE

from ..conftest import edit_self_check
from .conftest import edit_record


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # among the weights
    path.write_bytes(content)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_an_export_is_whole(doctor, repository):
    outcome = doctor(repository)
    assert (outcome.code, outcome.report["kind"]) == (0, "repository")
    assert outcome.titles("PASS") == {
        f"{c['name']} {c['about']}".strip() for c in outcome.report["checks"]
    }
    assert outcome.check("engine")["values"] == {"count": 0}
    assert outcome.check("origin")["values"]["random_weights"] is False
    release = outcome.check("release", "version 1")["values"]["release"]
    assert outcome.check("record", "version 1")["values"]["release"] == release


def test_a_missing_self_check_is_a_warning(doctor, copied):
    (copied / "ctclip_check" / "1" / FILE).unlink()
    outcome = doctor(copied)
    assert (outcome.code, outcome.titles("WARN")) == (0, {"self-check ctclip_check/1"})


@pytest.mark.parametrize("fault", ["damaged", "of another release"])
def test_a_self_check_that_proves_nothing_is_found(doctor, copied, fault):
    path = copied / "ctclip_check" / "1" / FILE
    if fault == "damaged":
        flip_byte(path)
    else:
        edit_self_check(copied, release="another")
    outcome = doctor(copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"self-check ctclip_check/1"})


def test_looking_changes_nothing(doctor, copied):
    def state():
        return {p: p.stat().st_mtime_ns for p in sorted(copied.rglob("*"))}

    before = state()
    doctor(copied)
    assert state() == before


def test_one_flipped_byte_is_found(doctor, copied):
    flip_byte(copied / "ctclip_vision/1/model.onnx")
    outcome = doctor(copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"file ctclip_vision/1"})
    values = outcome.check("file", "ctclip_vision/1")["values"]
    assert values["sha256"] != values["expected_sha256"]


def test_a_swapped_vocabulary_is_found_even_with_a_matching_hash(doctor, copied):
    """Whoever swaps the file and corrects its own record still contradicts the other models."""
    vocabulary = copied / "ctclip_tokenizer/1/vocab.txt"
    lines = vocabulary.read_text().splitlines()
    lines[-1], lines[-2] = lines[-2], lines[-1]
    vocabulary.write_text("\n".join(lines) + "\n")
    outcome = doctor(copied)
    assert outcome.titles("FAIL") == {"file ctclip_tokenizer/1", "vocabulary version 1"}
    digest = hashlib.sha256(vocabulary.read_bytes()).hexdigest()
    edit_record(
        vocabulary.with_name("provenance.json"),
        lambda record: record.update(file_sha256=digest, vocabulary_sha256=digest),
    )
    outcome = doctor(copied)
    assert outcome.code == 1
    assert outcome.titles("FAIL") == {"vocabulary version 1", "record version 1"}


def test_the_graph_for_gpus_is_of_the_release_like_the_other(doctor, copied):
    path = copied / "ctclip_preprocess/1/model_gpu.onnx"
    outcome = doctor(copied)
    assert outcome.check("graph", "ctclip_preprocess/1/model_gpu.onnx")["verdict"] == "PASS"
    flip_byte(path)
    titles = doctor(copied).titles("FAIL")
    assert "file ctclip_preprocess/1" in titles
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_record(
        path.with_name("provenance.json"),
        lambda record: record.update(further_files={path.name: digest}),
    )
    assert "record version 1" in doctor(copied).titles("FAIL")
    path.unlink()
    outcome = doctor(copied)
    assert "model_gpu.onnx" in outcome.check("file", "ctclip_preprocess/1")["detail"]


def test_a_graph_that_no_record_describes_is_found(doctor, copied):
    """As after copying the graph for GPUs into a release that was exported without one."""
    folder = copied / "ctclip_preprocess"
    edit_record(folder / "1/provenance.json", lambda record: record.pop("further_files"))
    said = doctor(copied).check("file", "ctclip_preprocess/1")
    assert (said["verdict"], "not describe model_gpu.onnx" in said["detail"]) == ("FAIL", True)
    for path in (folder / "configs").iterdir():
        path.unlink()  # it is of the contract, so the next config may choose it
    assert doctor(copied).verdict("file", "ctclip_preprocess/1") == "FAIL"
    edit(folder / "config.pbtxt", "max_batch", 'default_model_filename: "other.onnx"\nmax_batch')
    said = doctor(copied).check("file", "ctclip_preprocess/1")
    assert "config.pbtxt loads other.onnx, which is missing" in said["detail"]


@pytest.mark.parametrize("model", ["ctclip_vision", "ctclip_text", "ctclip_findings"])
def test_an_edited_size_in_a_config_is_found(doctor, copied, model):
    edit(copied / model / "config.pbtxt", "32]", "33]")
    outcome = doctor(copied)
    assert outcome.code == 1
    assert outcome.titles("FAIL") == {f"config {model}", f"graph {model}/1"}
    assert "33" in outcome.check("config", model)["detail"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("TYPE_INT16", "TYPE_FP32", "TYPE_FP32"),
        ('name: "SPACING"', 'name: "DISTANCE"', "DISTANCE"),
        ("max_batch_size: 0", "max_batch_size: 4", "max_batch_size"),
        ('backend: "onnxruntime"', 'backend: "openvino"', "openvino"),
        ('name: "ctclip_preprocess"', 'name: "other"', "other"),
        ("max_batch_size", "max_batsh_size", "max_batsh_size"),
        ("input [", "input [ {", "parse"),
    ],
)
def test_configs_that_leave_the_contract_are_found(doctor, copied, old, new, said):
    edit(copied / "ctclip_preprocess/config.pbtxt", old, new)
    outcome = doctor(copied)
    assert outcome.code == 1
    assert said in outcome.check("config", "ctclip_preprocess")["detail"]


@pytest.mark.parametrize(
    ("model", "old", "new", "said"),
    [
        ("ctclip_check", '"0.05"', '"-5"', "spacing_mm_above is '-5', expected 0.05"),
        ("ctclip_check", '"20.0"', '"nan"', "spacing_mm_below is 'nan', expected 20.0"),
        ("ctclip_tokenizer", '"512"', '"many"', "max_tokens is 'many', expected 512"),
        ("ctclip_tokenizer", '"max_texts"', '"most_texts"', "max_texts is missing, expected 64"),
    ],
)
def test_limits_that_were_edited_are_found(doctor, copied, model, old, new, said):
    edit(copied / model / "config.pbtxt", old, new)
    outcome = doctor(copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {f"config {model}"})
    assert said in outcome.check("config", model)["detail"]


def test_bf16_has_to_stand_in_the_name_of_a_variant(doctor, copied):
    """Float32 is what a variant promises that does not say otherwise."""
    folder = copied / "ctclip_vision/configs"
    shutil.copy(folder / "openvino-bf16.pbtxt", folder / "openvino.pbtxt")
    outcome = doctor(copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"config ctclip_vision (openvino)"})
    assert "HINT_BF16" in outcome.check("config", "ctclip_vision (openvino)")["detail"]


def test_variants_are_held_to_the_contract_too(doctor, copied):
    folder = copied / "ctclip_findings/configs"
    folder.mkdir(exist_ok=True)
    text = (copied / "ctclip_findings/config.pbtxt").read_text()
    (folder / "other.pbtxt").write_text(text.replace("onnxruntime", "openvino"))
    assert doctor(copied).verdict("config", "ctclip_findings (other)") == "PASS"
    (folder / "other.pbtxt").write_text(text.replace("PROBABILITIES", "CHANCES"))
    assert doctor(copied).titles("FAIL") == {"config ctclip_findings (other)"}


def test_a_default_config_may_not_turn_batching_off(doctor, copied):
    """A variant may state the batch axis itself; the default doing so loses Triton's batcher."""
    text = (copied / "ctclip_text/config.pbtxt").read_text()
    unbatched = text.replace("max_batch_size: 64", "max_batch_size: 0").replace(
        "dims: [", "dims: [-1, "
    )
    folder = copied / "ctclip_text/configs"
    folder.mkdir(exist_ok=True)
    (folder / "other.pbtxt").write_text(unbatched)
    assert doctor(copied).verdict("config", "ctclip_text (other)") == "PASS"
    (copied / "ctclip_text/config.pbtxt").write_text(unbatched)
    assert doctor(copied).verdict("config", "ctclip_text") == "FAIL"


def test_wiring_and_pins_of_ensembles_are_checked(doctor, copied):
    config = copied / "ctclip_zero_shot/config.pbtxt"
    edit(config, 'key: "TEXT", value: "PROMPTS"', 'key: "TEXT", value: "VOLUME"')
    assert doctor(copied).titles("FAIL") == {"config ctclip_zero_shot"}
    edit(config, 'key: "TEXT", value: "VOLUME"', 'key: "TEXT", value: "PROMPTS"')
    edit(config, "model_version: 1", "model_version: -1")
    outcome = doctor(copied)
    assert outcome.titles("FAIL") == {"pins ctclip_zero_shot"}
    assert "not pinned" in outcome.check("pins", "ctclip_zero_shot")["detail"]
    edit(config, "model_version: -1", "model_version: 7")
    assert "no version 7" in doctor(copied).check("pins", "ctclip_zero_shot")["detail"]


def test_a_version_that_triton_would_not_load_breaks_the_pins(doctor, copied):
    """Without a policy only the newest version of a model is loaded."""
    config = copied / "ctclip_score/config.pbtxt"
    config.write_text(re.sub(r"version_policy .*\n", "", config.read_text()))
    shutil.copytree(copied / "ctclip_score/1", copied / "ctclip_score/2")
    outcome = doctor(copied)
    assert outcome.titles("FAIL") == {"pins ctclip_zero_shot", "record version 2"}
    assert "version_policy" in outcome.check("pins", "ctclip_zero_shot")["detail"]


def test_a_release_that_waits_beside_the_served_one_is_no_fault(doctor, copied):
    """Version 2 is placed, and loaded by nothing yet; sizes and origin are those of version 1."""
    for folder in copied.iterdir():
        shutil.copytree(folder / "1", folder / "2")
        config = folder / "config.pbtxt"
        text = re.sub(r"version_policy .*\n", "", config.read_text())
        config.write_text(text + "version_policy { specific { versions: [1] } }\n")
    for path in copied.glob("*/2/provenance.json"):
        edit_record(path, lambda r: r["release"]["geometry"].update(volume_shape=[80, 60, 100]))
    outcome = doctor(copied)
    assert outcome.titles("FAIL") == {"record version 2"}  # made up for this test
    assert outcome.check("origin")["values"]["volume_shape"] == [40, 60, 100]


def test_two_releases_mixed_are_found(doctor, copied):
    """As after copying one model's folder over from another export."""

    def other(record):
        record["release"]["release"] = "0123456789abcdef"
        record["release"]["prompts"].reverse()

    edit_record(copied / "ctclip_findings/1/provenance.json", other)
    outcome = doctor(copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"release version 1"})
    releases = outcome.check("release", "version 1")["values"]["releases"]
    assert releases["0123456789abcdef"] == ["ctclip_findings"]
    assert outcome.verdict("record", "version 1") == "NOT RUN"


def test_an_edited_record_is_found(doctor, copied):
    for path in copied.glob("*/1/provenance.json"):
        edit_record(path, lambda r: r["release"]["checkpoint"].update(random_weights=True))
    outcome = doctor(copied)
    assert outcome.titles("FAIL") == {"record version 1"}
    assert outcome.verdict("origin") == "WARN"
    assert "RANDOM WEIGHTS" in outcome.check("origin")["detail"]


@pytest.mark.parametrize(
    ("file", "failing"),
    [
        ("ctclip_vision/1/model.onnx", "file ctclip_vision/1"),
        ("ctclip_check/1/model.py", "file ctclip_check/1"),
        ("ctclip_tokenizer/1/vocab.txt", "file ctclip_tokenizer/1"),
        ("ctclip_tokenizer/1/word_pieces.py", "python ctclip_tokenizer/1"),
        ("ctclip_score/config.pbtxt", "config ctclip_score"),
        ("ctclip_score/1/provenance.json", "file ctclip_score/1"),
    ],
)
def test_a_missing_file_is_named(doctor, copied, file, failing):
    (copied / file).unlink()
    outcome = doctor(copied)
    assert outcome.code == 1
    assert failing in outcome.titles("FAIL")


def test_a_missing_model_is_named(doctor, copied):
    shutil.rmtree(copied / "ctclip_relevance")
    outcome = doctor(copied)
    assert outcome.titles("FAIL") >= {"layout ctclip_relevance", "pins ctclip_explain"}


def test_a_truncated_provenance_is_found(doctor, copied):
    path = copied / "ctclip_text/1/provenance.json"
    path.write_bytes(path.read_bytes()[:200])
    outcome = doctor(copied)
    assert (outcome.code, outcome.titles("FAIL")) == (1, {"file ctclip_text/1"})
    assert "not JSON" in outcome.check("file", "ctclip_text/1")["detail"]


def test_a_contract_of_another_version_is_found(doctor, copied):
    for path in copied.glob("*/1/provenance.json"):
        edit_record(path, lambda record: record["release"].update(contract_version=99))
    assert doctor(copied).check("contract")["values"] == {"version": 99, "expected": 1}


def test_folders_that_are_no_models_are_found(doctor, copied):
    (copied / ".cache").mkdir()
    outcome = doctor(copied)
    assert outcome.titles("FAIL") == {"layout"}
    assert outcome.check("layout")["values"]["strays"] == [".cache"]


def test_graphs_beyond_production_are_found(doctor, copied):
    path = copied / "ctclip_score/1/model.onnx"
    model = onnx.load(path)
    model.ir_version, model.opset_import[0].version = 14, 27
    path.write_bytes(model.SerializeToString())
    outcome = doctor(copied)
    assert outcome.titles("FAIL") == {"file ctclip_score/1", "graph ctclip_score/1"}
    assert outcome.check("graph", "ctclip_score/1")["values"]["ir_version"] == 14
    model.ir_version, model.opset_import[0].version = 11, 20
    path.write_bytes(model.SerializeToString())
    assert doctor(copied).verdict("graph", "ctclip_score/1") == "WARN"


def test_weights_in_another_file_are_found(doctor, copied):
    path = copied / "ctclip_findings/1/model.onnx"
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert "another file" in doctor(copied).check("graph", "ctclip_findings/1")["detail"]


def test_changed_python_sources_are_told(doctor, copied):
    path = copied / "ctclip_tokenizer/1/word_pieces.py"
    path.write_text(path.read_text() + "# changed\n")
    outcome = doctor(copied)
    assert (outcome.code, outcome.verdict("python", "ctclip_tokenizer/1")) == (0, "WARN")
    assert outcome.check("python", "ctclip_tokenizer/1")["values"]["changed"] == ["word_pieces.py"]


class TestEngines:
    @pytest.fixture
    def version(self, copied):
        folder = copied / "ctclip_vision/1"
        (folder / "model.plan").write_bytes(b"ftrt")
        return folder

    @staticmethod
    def record(version, **changes):
        values = {
            "onnx_sha256": sha256(version / "model.onnx"), "tensorrt_version": "10.1",
            "gpu_name": "", "compute_capability": "8.0", "profile": {}, "precision": "fp32",
            "plan_sha256": sha256(version / "model.plan"), "plan_bytes": 4,
        }  # fmt: skip
        EngineRecord(**values | changes).write(version)

    def test_a_plan_of_this_onnx_passes(self, doctor, copied, version):
        self.record(version)
        outcome = doctor(copied)
        assert (outcome.code, outcome.verdict("engine", "ctclip_vision/1")) == (0, "PASS")
        assert "10.1" in outcome.check("engine", "ctclip_vision/1")["detail"]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"onnx_sha256": "0" * 64}, "another ONNX"),
            ({"plan_sha256": "0" * 64}, "it is damaged"),
        ],
    )
    def test_a_plan_that_is_not_the_recorded_one_fails(self, doctor, copied, version, change, said):
        self.record(version, **change)
        outcome = doctor(copied)
        assert (outcome.code, outcome.titles("FAIL")) == (1, {"engine ctclip_vision/1"})
        assert said in outcome.check("engine", "ctclip_vision/1")["detail"]

    @pytest.mark.parametrize("content", [None, "[]", "{", "\xff"])
    def test_a_missing_or_damaged_record_fails(self, doctor, copied, version, content):
        if content is not None:
            (version / "engine.json").write_text(content, encoding="latin-1")
        assert doctor(copied).titles("FAIL") == {"engine ctclip_vision/1"}

    def test_another_precision_is_warned_of(self, doctor, copied, version):
        self.record(version, precision="fp16")
        assert doctor(copied).verdict("engine", "ctclip_vision/1") == "WARN"


def test_versions_are_numbers_as_triton_reads_them(copied):
    for name in ("01", "x", "٣"):
        (copied / "ctclip_score" / name).mkdir()
    found = read_repository(copied, {}).models["ctclip_score"]
    assert list(found.versions) == [1]
