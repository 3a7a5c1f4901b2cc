"""Files people hold are read; everything else is refused by name, with nothing written."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ctclip_client.cli.program import main
from ctclip_client.contract import Geometry
from ctclip_client.errors import InvalidInput, Unreadable
from ctclip_export.checkpoint import TextModel, load_checkpoint, read_text_model
from ctclip_export.checkpoint.names import INITTED, POSITION_IDS, slots, vision_config
from ctclip_export.model import ModelConfig, VisionConfig

from ..conftest import Golden

State = dict[str, Tensor]


@pytest.fixture
def state(golden: Golden) -> State:
    return torch.load(golden.checkpoint, weights_only=True)


@pytest.fixture
def load(golden: Golden, text_model: TextModel, tmp_path: Path) -> Callable[[object], Tensor]:
    """Save an object, load it as a checkpoint, return one embedding it computes."""

    def load(content: object) -> Tensor:
        path = tmp_path / "file.pt"
        torch.save(content, path)
        model = load_checkpoint(path, text_model, golden.geometry).model
        with torch.no_grad():
            return model.vision(torch.from_numpy(golden.expected["b1_volume"]))[0]

    return load


def test_without_position_ids(load: Callable[[object], Tensor], state: State) -> None:
    plain = load(state)
    del state[POSITION_IDS]
    torch.testing.assert_close(load(state), plain, rtol=0, atol=0)


def test_half_precision_files_are_widened(load: Callable[[object], Tensor], state: State) -> None:
    widened = load({name: tensor.half().float() for name, tensor in state.items()})
    torch.testing.assert_close(
        load({name: tensor.half() for name, tensor in state.items()}), widened, rtol=0, atol=0
    )


def test_doctor_takes_what_the_export_takes(golden: Golden, state: State, tmp_path: Path) -> None:
    name = "to_text_latent.weight"
    state[name] = state[name].to(torch.float8_e4m3fn)  # torch cannot compare these
    torch.save(state, tmp_path / "file.pt")
    assert examine_checkpoint(tmp_path / "file.pt", golden) == 0
    torch.save(state | {name: torch.empty(32, 48, device="meta")}, tmp_path / "file.pt")
    assert examine_checkpoint(tmp_path / "file.pt", golden) == 1


def examine_checkpoint(path: Path, golden: Golden) -> int:
    flags = ["--text-model", str(golden.text_model), "--volume-shape", golden.volume_shape_flag]
    return main(["doctor", str(path), *flags])


def test_declared_random_weights(golden: Golden, text_model: TextModel, tmp_path: Path) -> None:
    path = Path(shutil.copy(golden.checkpoint, tmp_path / "file.pt"))
    assert not load_checkpoint(path, text_model, golden.geometry).random_weights
    (tmp_path / "file.pt.RANDOM_WEIGHTS").touch()
    assert load_checkpoint(path, text_model, golden.geometry).random_weights
    head = Path(shutil.copy(golden.folder / "ct_lipro.pt", tmp_path / "head.pt"))
    (tmp_path / "head.pt.RANDOM_WEIGHTS").touch()
    assert load_checkpoint(golden.checkpoint, text_model, golden.geometry, head).random_weights


def test_one_classifier_at_a_time(golden: Golden, text_model: TextModel) -> None:
    head = golden.folder / "ct_lipro.pt"
    with pytest.raises(InvalidInput, match=r"--classfine: .* is a ClassFine checkpoint"):
        load_checkpoint(head, text_model, golden.geometry, head)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda s: s.pop("to_text_latent.weight"), r"missing: to_text_latent.weight", id="gone"
        ),
        pytest.param(
            lambda s: s.pop("visual_transformer.vq._codebook.embed"),
            r"'visual_transformer.vq._codebook.embed' is missing",
            id="codebook gone",
        ),
        pytest.param(
            lambda s: s.update(extra=torch.zeros(3)), r"unexpected: extra \(3,\)", id="unexpected"
        ),
        pytest.param(
            lambda s: s.update({"to_text_latent.weight": torch.zeros(32, 47)}),
            r"to_text_latent.weight is \(32, 47\), expected \(32, 48\)",
            id="shape",
        ),
        pytest.param(
            lambda s: s["to_text_latent.weight"][3, 3].fill_(torch.nan),
            r"'to_text_latent.weight' holds 1 values that are NaN or infinite",
            id="NaN",
        ),
        pytest.param(
            lambda s: s.update({"to_text_latent.weight": torch.zeros(32, 48, dtype=torch.int64)}),
            r"'to_text_latent.weight' is torch.int64",
            id="integers",
        ),
        pytest.param(
            lambda s: s.update({"to_visual_latent.weight": torch.zeros(1).expand(32, 2097152)}),
            r"CT-CLIP v1",
            id="v1",
        ),
        pytest.param(
            lambda s: s.update({"to_visual_latent.weight": torch.zeros(32, 24 * 24 * 64)}),
            r"trained for 576",
            id="another geometry",
        ),
        pytest.param(
            lambda s: s.update({"visual_transformer.module.to_patch_emb.2.bias": torch.zeros(64)}),
            r"holds 'visual_transformer.to_patch_emb.2.bias' twice",
            id="twice",
        ),
        pytest.param(lambda s: s.update({INITTED: torch.zeros(1)}), "initted' is 0", id="initted"),
        pytest.param(
            lambda s: s.update({POSITION_IDS: s[POSITION_IDS].flip(1)}), "is not 0, 1", id="order"
        ),
        pytest.param(
            lambda s: s.update({POSITION_IDS: s[POSITION_IDS][:, :99]}), "is not 0, 1", id="fewer"
        ),
        pytest.param(
            lambda s: s.update({"temperature": torch.tensor(torch.inf)}), r"'temperature'", id="inf"
        ),
        pytest.param(
            lambda s: s.update(temperature=torch.tensor(200.0)),
            "'temperature' is 200, expected the logarithm",
            id="infinite logits",
        ),
        pytest.param(
            lambda s: s.update(
                {"to_text_latent.weight": torch.full((32, 48), 1e300, dtype=torch.float64)}
            ),
            r"'to_text_latent.weight' holds 1536 values that are NaN or infinite",
            id="beyond float32",
        ),
        pytest.param(
            lambda s: s.update({"to_text_latent.weight": torch.zeros(32, 48).to_sparse()}),
            r"'to_text_latent.weight' is torch.sparse_coo",
            id="sparse",
        ),
        pytest.param(
            lambda s: s.update({"to_text_latent.weight": torch.empty(32, 48, device="meta")}),
            r"'to_text_latent.weight' is .* on device 'meta'",
            id="no values",
        ),
        pytest.param(
            lambda s: [s.pop(name) for name in list(s) if "temporal_transformer.layers" in name],
            "no tensor of 'visual_transformer.enc_temporal_transformer.layers'",
            id="no temporal layer",
        ),
        pytest.param(
            lambda s: s["text_transformer.encoder.layer.1.output.dense.bias"][-1].fill_(torch.inf),
            r"text_transformer.encoder.layer.1.output.dense.bias",
            id="infinity in BERT",
        ),
    ],
)
def test_damaged_states_are_refused(
    change: Callable[[State], object],
    message: str,
    state: State,
    load: Callable[[object], Tensor],
) -> None:
    change(state)
    with pytest.raises(InvalidInput, match=message) as caught:
        load(state)
    assert caught.value.remedy


def test_a_published_checkpoint_that_lost_its_last_layer() -> None:
    state = {
        name: torch.empty(slot.shape, device="meta") for name, slot in slots(ModelConfig()).items()
    }
    assert vision_config(state, (240, 480, 480)) == VisionConfig()
    lost = ".enc_spatial_transformer.layers.3."
    rest = {name: tensor for name, tensor in state.items() if lost not in name}
    assert len(rest) < len(state)
    assert vision_config(rest, (240, 480, 480)) == VisionConfig()  # so they are named as missing


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def test_a_pickle_that_wants_to_run_code(
    load: Callable[[object], Tensor], state: State, golden: Golden, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    with pytest.raises(Unreadable, match=r"wants to run code.*mkdir"):
        load({**state, "bomb": _Bomb(marker)})
    bare = tmp_path / "bare.pt"  # as torch.save wrote before it wrote archives
    bare.write_bytes(pickle.dumps(_Bomb(marker), protocol=2))
    assert [examine_checkpoint(path, golden) for path in (tmp_path / "file.pt", bare)] == [1, 1]
    assert not marker.exists()
    pickle.loads(bare.read_bytes())  # noqa: S301
    assert marker.exists(), "the test's pickle does nothing, so refusing it shows nothing"


def _script(path: Path, golden: Golden) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def _other_zip(path: Path, golden: Golden) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _hole(path: Path, golden: Golden) -> None:
    """A good directory, but the pickle inside is overwritten."""
    content = bytearray(golden.checkpoint.read_bytes())
    start = content.index(b"data.pkl") + 64
    content[start : start + 4000] = b"\x00" * 4000
    path.write_bytes(content)


def _other_disks(path: Path, golden: Golden) -> None:
    content = bytearray(golden.checkpoint.read_bytes())
    content[content.rindex(b"PK\x06\x07") + 16] = 9  # of how many disks the archive consists
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path, golden: path.write_bytes(golden.checkpoint.read_bytes()[:9999]), "cut off"),
        (_other_disks, "damaged .zipfiles that span multiple disks"),
        (lambda path, golden: path.write_bytes(pickle.dumps({"a": 1})), "not a PyTorch checkpoint"),
        (_script, r"TorchScript archives passed to ``torch.load``\)"),
        (_other_zip, "damaged or not a PyTorch checkpoint"),
        (_hole, "damaged|wants to run code"),
        (lambda path, golden: path.write_bytes(b""), "not a PyTorch checkpoint"),
        (lambda path, golden: path.mkdir(), "a folder, not a file"),
        (lambda path, golden: None, "no such file"),
        (lambda path, golden: torch.save([1, 2], path), "holds a list"),
        (lambda path, golden: torch.save({}, path), "holds an empty dictionary"),
    ],
)
def test_files_that_are_no_checkpoint(
    make: Callable[[Path, Golden], object],
    message: str,
    golden: Golden,
    text_model: TextModel,
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.pt"
    make(path, golden)
    with pytest.raises(Unreadable, match=message) as caught:
        load_checkpoint(path, text_model, golden.geometry)
    assert caught.value.remedy


@pytest.mark.parametrize("shape", [(40, 60, 110), (41, 60, 100), (5, 60, 100)])
def test_volume_shapes_that_do_not_fit(
    shape: tuple[int, int, int], golden: Golden, text_model: TextModel
) -> None:
    with pytest.raises(InvalidInput, match="--volume-shape"):
        load_checkpoint(golden.checkpoint, text_model, Geometry(shape))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("vocab.txt", lambda text: text + "extra\n", "133 tokens, but config.json says.* 132"),
        ("vocab.txt", lambda text: text.replace("[CLS]", "[XXX]"), r"no \[CLS\]"),
        ("vocab.txt", lambda text: text.replace("\nnodule\n", "\nwall\n"), "'wall' stands in it"),
        ("config.json", lambda text: text[:40], "not JSON"),
        ("config.json", lambda text: "[]", "expected a JSON object"),
        ("config.json", lambda text: text.replace("48", "-48"), "hidden_size is -48"),
        ("config.json", lambda text: text.replace("512", "128"), "embeddings is 128, .* least 512"),
        ("config.json", lambda text: "[" * 100_000, "not JSON"),
        ("config.json", lambda text: text.replace('_heads": 4', '_heads": 5'), "multiple"),
        ("config.json", lambda text: text.replace("1e-12", "3"), "layer_norm_eps"),
    ],
)
def test_text_models_that_cannot_be_right(
    file: str, change: Callable[[str], str], message: str, golden: Golden, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(golden.text_model, tmp_path / "text_model"))
    text = (folder / file).read_text()
    assert change(text) != text
    (folder / file).write_text(change(text))
    with pytest.raises(InvalidInput, match=message):
        read_text_model(folder)


def test_a_text_model_of_other_sizes_is_named(golden: Golden, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(golden.text_model, tmp_path / "text_model"))
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    )
    with pytest.raises(InvalidInput, match=r"missing: text_transformer.encoder.layer.2"):
        load_checkpoint(golden.checkpoint, read_text_model(folder), golden.geometry)


def test_missing_text_model_files(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"config\.json"):
        read_text_model(tmp_path)
