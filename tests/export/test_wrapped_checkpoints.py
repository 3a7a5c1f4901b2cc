"""Checkpoints as training leaves them: the model is found, or its owner is told how to take it out.

Every command that a refusal prints is run on the file that provoked it, and its result is loaded.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import runpy
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint import save as save_distributed

from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_export.checkpoint import Checkpoint, TextModel, load_checkpoint
from ctclip_export.checkpoint.unwrap import unwrap

from ..conftest import Golden

State = dict[str, Tensor]
Load = Callable[[Path], Checkpoint]
SCALARS = {"epoch": 3, "loss": 0.5, "config": {"lr": 1e-4}, "rng": torch.zeros(8)}


@pytest.fixture(scope="module")
def state(golden: Golden) -> State:
    return torch.load(golden.checkpoint, weights_only=True)


@pytest.fixture(scope="module")
def classfine(golden: Golden) -> State:
    return torch.load(golden.folder / "ct_lipro.pt", weights_only=True)


@pytest.fixture(scope="module")
def load(golden: Golden, text_model: TextModel) -> Load:
    return lambda path: load_checkpoint(path, text_model, golden.geometry)


def assert_same(checkpoint: Checkpoint, expected: Checkpoint, name: str = "") -> None:
    """All weights and the head; what is computed from equal ones is equal."""
    assert checkpoint.variant == expected.variant, name
    for made, wanted in ((checkpoint.model, expected.model),
                         (checkpoint.classifier, expected.classifier)):  # fmt: skip
        if wanted is None:
            assert made is None, name
            continue
        assert made is not None, name
        state, reference = made.state_dict(), wanted.state_dict()
        assert state.keys() == reference.keys()
        for key, tensor in reference.items():
            assert torch.equal(state[key], tensor), (name, key)
            assert state[key].stride() == tensor.stride(), (name, key)


def behind(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def inside(part: str, wrapper: str, state: State) -> State:
    """Wrap a part of the model, wherever its name occurs."""
    return {n.replace(f"{part}.", f"{part}.{wrapper}."): t for n, t in state.items()}


def optimizer(state: State) -> dict[str, Any]:
    """Adam's state by number, and by name as FSDP has it, with tensors of the model's shapes."""
    moments = {
        name: {"exp_avg": torch.ones_like(tensor), "step": torch.tensor(9.0)}
        for name, tensor in list(state.items())[-2:]
    }
    return {"state": {**dict(enumerate(moments.values())), **moments}, "param_groups": [{}]}


def files(state: State) -> Iterator[tuple[str, Any]]:
    """Files that hold a v2 or a ClassFine state dict, with what they are called here."""
    beside = {"optim": optimizer(state), **SCALARS}
    yield "below model", {"model": state, **beside}
    yield "below 0", {0: state}
    yield "three deep", {"a": {"b": {"state_dict": state}}, **beside}
    yield "twice the same", {"model": state, "state_dict": state}
    yield "among the tensors", {**state, **{k: v for k, v in beside.items() if k != "rng"}}
    ordered = collections.OrderedDict(behind("module.", state))
    ordered._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    yield "metadata", {"model_state_dict": ordered}
    yield "parameters", {n: torch.nn.Parameter(t, t.is_floating_point()) for n, t in state.items()}
    yield "views", {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in state.items()}
    yield "float64", {n: t.double() if t.is_floating_point() else t for n, t in state.items()}


@pytest.mark.parametrize("file", ["ctclip.pt", "ct_lipro.pt"])
def test_files_that_hold_more_than_the_model(
    file: str, load: Load, golden: Golden, tmp_path: Path
) -> None:
    expected = load(golden.folder / file)
    for name, content in files(torch.load(golden.folder / file, weights_only=True)):
        torch.save(content, tmp_path / "file.pt")
        assert_same(load(tmp_path / "file.pt"), expected, name)


def wrappings(state: State) -> Iterator[State]:
    wrappers = ("", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "net.clip.")
    for outer in wrappers:
        for middle in wrappers:
            for inner in wrappers:
                yield behind(outer + middle + inner, state)
    for outer in wrappers:
        for part in ("visual_transformer", "text_transformer", "layers.0.1", "layers.0"):
            for wrapper in ("module", "_orig_mod", "_checkpoint_wrapped_module"):
                yield behind(outer, inside(part, wrapper, state))


def test_wrappers_in_any_order(state: State, classfine: State) -> None:
    for held in (state, classfine):
        plain = unwrap(Path("f"), held)
        assert (plain.entry, bool(plain.classifier)) == ("", held is classfine)
        wrapped = list(wrappings(held))
        if held is classfine:
            wrapped += [inside("classifier", "_orig_mod", s) for s in wrapped]
            wrapped += [inside("trained_model", "module", s) for s in wrapped]
        for each in wrapped:
            found = unwrap(Path("f"), {"state_dict": each, "optimizer": optimizer(each)})
            assert found.entry == '["state_dict"]'
            for names, expected in (
                (found.state, plain.state), (found.classifier, plain.classifier)
            ):  # fmt: skip
                assert names.keys() == expected.keys(), next(iter(each))
                assert all(names[name] is expected[name] for name in names), next(iter(each))


def test_files_of_old_torch_versions(
    state: State, load: Load, golden: Golden, tmp_path: Path
) -> None:
    torch.save({"model": state}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(load(tmp_path / "old.pt"), load(golden.checkpoint))


class Settings(dict[str, int]):
    """A training program's own."""


def test_what_stands_beside_a_classifier(
    classfine: State, load: Load, golden: Golden, tmp_path: Path
) -> None:
    path = tmp_path / "file.pt"
    wrapped = behind("module.", classfine)
    torch.save(wrapped | {"module.loss.weight": torch.zeros(3)}, path)
    with pytest.raises(InvalidInput, match=r"1 do not: 'module\.loss\.weight'") as caught:
        load(path)
    made = run_printed(caught.value.remedy)
    assert_same(load(made), load(golden.folder / "ct_lipro.pt"))
    torch.save(wrapped | {"module.classifier.2.weight": torch.zeros(3)}, path)
    with pytest.raises(InvalidInput, match=r"unexpected: classifier\.2\.weight"):
        load(path)


def other(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def halves(state: State) -> State:
    names = list(state)[::2]
    return {("module." if n in names else "") + n: t for n, t in state.items()}


def part_behind(part: str, prefix: str, state: State) -> State:
    return {(prefix if n.startswith(part) else "") + n: t for n, t in state.items()}


# what is saved, and what the refusal has to say
REFUSED: dict[str, tuple[Callable[[State], Any], str]] = {
    "two models": (
        lambda s: {"model": s, "ema": other(s)}, r'2 CT-CLIPs, \["model"\] and \["ema"\]'
    ),
    "two models, deeper": (
        lambda s: {"it's": {"a b": s}, "ema": {"x": other(s)}},
        r'\["it\'s"\]\["a b"\] and \["ema"\]\["x"\]',
    ),
    "a model in a model": (lambda s: {**s, "ema": other(s)}, r'the file itself and \["ema"\]'),
    "two prefixes": (
        lambda s: behind("online_model.", s) | behind("ema_model.", s),
        "138 as 'online_model.temperature', 138 as 'ema_model.temperature'",
    ),
    "one within the other": (lambda s: behind("m.", s) | behind("m.ema.", s), "138 as 'm.ema.te"),
    "with and without": (lambda s: s | behind("module.", s), "begin in different ways"),
    "a temperature beside": (
        lambda s: s | {"loss.temperature": torch.zeros(())}, "1 as 'loss.temperature'"
    ),
    "halves": (lambda s: {"model": halves(s)}, "69 as 'module.temperature', 69 as 'text_tr"),
    "a part": (lambda s: part_behind("text_transformer.", "module.", s), "different ways"),
    "the other part": (lambda s: part_behind("visual_transformer.", "net.", s), "different ways"),
    "a loss beside": (
        lambda s: {"state_dict": behind("model.", s) | {"criterion.weight": torch.zeros(3)}},
        "138 names begin with 'model.', and 1 do not: 'criterion.weight'",
    ),
    "arguments": (
        lambda s: {"model": s, "args": argparse.Namespace(lr=1)}, r"\(argparse.Namespace\)"
    ),
    "numpy": (lambda s: {"model": s, "loss": np.float64(1), "a": np.ones(3)}, "numpy.dtype"),
    "a path": (lambda s: {"model": s, "out": Path("x")}, "pathlib.PosixPath"),
    "own classes": (
        lambda s: {"model": s, "cfg": Settings(a=1)}, "Settings"
    ),
    "own class around it": (lambda s: Settings(model=s), "Settings"),  # type: ignore[arg-type]
}  # fmt: skip


def run_printed(remedy: str, *, in_shell: bool = False) -> Path:
    """Run the command of a remedy as a shell would read it; the file that it names last or first
    and that was not there before."""
    command = remedy[remedy.index(sys.executable) :]
    words = shlex.split(command)
    made = {Path(word) for word in words[2:] if word.endswith(".pt") and not Path(word).exists()}
    if in_shell:
        subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, text=True)
    else:
        _, how, what, *arguments = words
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(None):
            patch.setattr(sys, "argv", [how, *arguments])
            if how == "-m":
                patch.delitem(sys.modules, what, raising=False)
                runpy.run_module(what, run_name="__main__")
            else:
                exec(what, {})  # noqa: S102
    (path,) = made
    assert path.is_file()
    return path


def test_remedies_work(state: State, load: Load, golden: Golden, tmp_path: Path) -> None:
    expected = load(golden.checkpoint)
    for index, (name, (make, message)) in enumerate(REFUSED.items()):
        folder = tmp_path / f"it's {index}"
        folder.mkdir()
        torch.save(make(state), folder / "a file.pt")
        with pytest.raises(InvalidInput, match=message) as caught:
            load(folder / "a file.pt")
        made = run_printed(caught.value.remedy, in_shell=name == "two models, deeper")
        assert_same(load(made), expected, name)


def save_safetensors(state: State, folder: Path) -> Path:
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def save_parts(state: State, folder: Path, save: Callable[..., None], suffix: str) -> Path:
    names = list(state)
    for number in (1, 2, 3):
        part = {name: state[name] for name in names[number - 1 :: 3]}
        save(part, folder / f"[model]-0000{number}-of-00003{suffix}")
    save(state, folder / f"[model]-00001-of-00009{suffix}")
    return folder / f"[model]-00002-of-00003{suffix}"


def save_folder(state: State, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of one process
        save_distributed({"model": state}, storage_writer=FileSystemWriter(folder / "step"))
    return folder / "step"


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (save_safetensors, "a safetensors file"),
        (lambda s, folder: save_parts(s, folder, torch.save, ".bin"), "one of 3 files"),
        (lambda s, folder: save_parts(s, folder, save_file, ".safetensors"), "one of 3 files"),
        (save_folder, "a folder of torch.distributed.checkpoint"),
    ],
)
def test_other_forms_of_files(
    save: Callable[[State, Path], Path], message: str, state: State, load: Load,
    golden: Golden, tmp_path: Path,
) -> None:  # fmt: skip
    path = save(state, tmp_path)
    with pytest.raises(CTClipError, match=message) as caught:
        load(path)
    made = run_printed(caught.value.remedy)
    assert_same(load(made), load(golden.checkpoint))
