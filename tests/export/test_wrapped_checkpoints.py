"""Checkpoints as training leaves them: the model is found, or its owner is told how to take it out.

Every command that a refusal prints is run on the file that provoked it, and its result is loaded.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import re
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

from ctclip_client.cli.program import main
from ctclip_client.errors import CTClipError, InvalidInput
from ctclip_export.checkpoint import Checkpoint, TextModel, load_checkpoint
from ctclip_export.checkpoint.file import read_contents
from ctclip_export.checkpoint.tensors_alone import main as tensors_alone
from ctclip_export.checkpoint.unwrap import Contents, unwrap

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


def assert_equal(found: Contents, wanted: Contents, name: str) -> None:
    for got, held in ((found.state, wanted.state), (found.classifier, wanted.classifier)):
        assert got.keys() == held.keys(), name
        assert all(torch.equal(got[n], held[n]) for n in held), name


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


def places(state: State) -> Iterator[tuple[str, Any]]:
    """Where files have a v2 or a ClassFine state dict, with what they are called here."""
    beside = {"optim": optimizer(state), **SCALARS}
    yield "below model", {"model": state, **beside}
    yield "below 0", {0: state}
    yield "three deep", {"a": {"b": {"state_dict": state}}, **beside}
    yield "twice the same", {"model": state, "state_dict": state, "swa": [state]}
    yield "below a decimal", {0.9999: state}
    yield "below several numbers", {("ema", 0.99): {None: state}, "history": [1.0, (2.0, [])]}
    yield "in a list", {"models": [state], "epoch": 3}
    yield "a tuple", (optimizer(state), (state, 3))
    moments = {n: t for n, t in state.items() if "_codebook" not in n}  # buffers have none
    yield "moments by name", {"optim": {"exp_avg": moments, "exp_avg_sq": moments}, "model": state}
    yield "among the tensors", {**state, **{k: v for k, v in beside.items() if k != "rng"}}


def forms(state: State) -> Iterator[tuple[str, Any]]:
    """The same in other types."""
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
    state = torch.load(golden.folder / file, weights_only=True)
    plain = read_contents(golden.folder / file)
    for name, content in places(state):
        torch.save(content, tmp_path / "file.pt")
        assert_equal(read_contents(tmp_path / "file.pt"), plain, name)
    for name, content in forms(state):
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
    (command,) = printed(caught.value.remedy)
    assert_same(load(run(command)), load(golden.folder / "ct_lipro.pt"))
    torch.save(wrapped | {"module.classifier.2.weight": torch.zeros(3)}, path)
    with pytest.raises(InvalidInput, match=r"unexpected: classifier\.2\.weight"):
        load(path)


def halves(state: State) -> State:
    names = list(state)[::2]
    return {("module." if n in names else "") + n: t for n, t in state.items()}


def part_behind(part: str, prefix: str, state: State) -> State:
    return {(prefix if part in n else "") + n: t for n, t in state.items()}


def plain(state: State) -> State:
    """Without what a ClassFine has around it."""
    return {
        n.removeprefix("trained_model."): t
        for n, t in state.items() if not n.startswith("classifier.")
    }  # fmt: skip


def params(state: State) -> State:
    return {n: t for n, t in state.items() if "_codebook" not in n}


# what is saved of two models, what the refusal has to say, and what its commands make: the first,
# the second, or the second without its head
REFUSED: dict[str, tuple[Callable[[State, State], Any], str, str]] = {
    "two models": (
        lambda s, o: {"model": s, "ema": o}, r'2 CT-CLIPs, \["model"\] and \["ema"\]', "so"
    ),
    "two models, deeper": (
        lambda s, o: {"it's": {"a b": s}, "ema": {"x": o}},
        r'\["it\'s"\]\["a b"\] and \["ema"\]\["x"\]', "so",
    ),
    "a model in a model": (
        lambda s, o: {**s, "ema": o, "n": 1}, r'the file itself and \["ema"\]', "so"
    ),
    "a model in a model, deeper": (lambda s, o: {"a": {**s, "b": o}}, r'\["a"\]\["b"\]', "so"),
    "below a decimal": (lambda s, o: {"model": s, 0.999: o}, r"and \[0\.999\]", "so"),
    "below a tuple": (
        lambda s, o: {"model": s, ("ema", 0.9): o}, r"and \[\('ema', 0\.9\)\]", "so"
    ),
    "in a list": (lambda s, o: {"model": s, "swa": [1, o]}, r'and \["swa"\]\[1\]', "so"),
    "in a tuple": (lambda s, o: {"hist": ({}, {"m": o}), True: s}, r'\["hist"\]\[1\]\["m"', "os"),
    "a list": (lambda s, o: [s, [o]], r"\[0\] and \[1\]\[0\]", "so"),
    "below no number": (lambda s, o: {"model": s, float("nan"): o}, "no literal", ""),
    "below a type": (lambda s, o: {torch.float32: s}, "no literal", ""),
    "with moments": (
        lambda s, o: {"opt": {"exp_avg": params(s), "exp_avg_sq": params(o)}, "a": s, "b": o},
        r'2 CT-CLIPs, \["a"\] and \["b"\]', "so",
    ),
    "two prefixes": (
        lambda s, o: behind("online_model.", s) | behind("ema_model.", o) | {0: 1},
        "138 as 'online_model.*temperature', 138 as 'ema_model.*temperature'", "so",
    ),
    "an average beside": (
        lambda s, o: behind("model.", s) | behind("average_model.module.", o), "138 as 'av", "so"
    ),
    "a wrapped one beside": (lambda s, o: s | behind("module.", o), "138 as 'module.", "so"),
    "a plain one beside": (lambda s, o: s | behind("teacher.", plain(o)), "138 as 'te", "sp"),
    "a plain base": (lambda s, o: behind("base.", plain(o)) | s, "138 as 'base.temp", "ps"),
    "named as the head": (lambda s, o: s | behind("classifier.ema.", plain(o)), "138 as 'cl", "sp"),
    "moments beside": (lambda s, o: s | behind("exp_avg.", params(o)), "as 'exp_avg.*temp", "s"),
    "one within the other": (
        lambda s, o: behind("m.", s) | behind("m.ema.", o), "138 as 'm.ema.*te", "so"
    ),
    "a temperature beside": (
        lambda s, o: s | {"loss.temperature": torch.zeros(())}, "1 as 'loss.temperature'", "s"
    ),
    "halves": (
        lambda s, o: {"model": halves(s)}, "69 as 'module.*temperature', 69 as '.*text_tr", "s"
    ),
    "a part": (
        lambda s, o: part_behind("text_transformer.", "module.", s), "different ways", "s"
    ),
    "the other part": (
        lambda s, o: part_behind("visual_transformer.", "net.", s), "different ways", "s"
    ),
    "a loss beside": (
        lambda s, o: {"state_dict": behind("model.", s) | {"criterion.weight": torch.zeros(3)}},
        "138 names begin with 'model.*', and 1 do not: 'criterion.weight'", "s",
    ),
    "arguments": (
        lambda s, o: {"model": s, "args": argparse.Namespace(lr=1)}, r"\(argparse.Namespace\)", "s"
    ),
    "numpy": (
        lambda s, o: {"model": s, "loss": np.float64(1), "a": np.ones(3)}, "numpy.dtype", "s"
    ),
    "a path": (lambda s, o: {"models": [s], "out": Path("x")}, "pathlib.PosixPath", "s"),
    "a path as a key": (lambda s, o: {"model": s, Path("/x"): o}, "pathlib.PosixPath", "s"),
    "in a circle": (lambda s, o: circle({"model": s, "out": Path("x")}), "pathlib.PosixPath", "s"),
    "builtins": (
        lambda s, o: collections.defaultdict(list, model=s, a=frozenset([1]), b=slice(2)),
        "builtins.list", "s",
    ),
    "own classes": (lambda s, o: {"model": s, "cfg": Settings(a=1)}, "Settings", "s"),
    "own class around it": (
        lambda s, o: Settings(model=s), "Settings", "s"  # type: ignore[arg-type]
    ),
}  # fmt: skip


def circle(content: dict[str, Any]) -> dict[str, Any]:
    content["self"] = content
    return content


def printed(remedy: str) -> list[str]:
    """The commands of a remedy, as a shell would get them."""
    assert remedy.isprintable()
    ways = [way for way in remedy.split("; or if ") if sys.executable in way]
    return [way[way.index(sys.executable) :] for way in ways]


def run(command: str, *, in_shell: bool = False) -> Path:
    """Run a command; the one file that it made."""
    words = shlex.split(command)
    made = {Path(word) for word in words[2:] if word.endswith(".pt") and not Path(word).exists()}
    if in_shell:
        shell = ["/bin/sh", "-c", command]
        assert not subprocess.run(shell, check=True, capture_output=True).stderr
    else:
        _, how, what, *arguments = words
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(None):
            patch.setattr(sys, "argv", [how, *arguments])
            if how == "-m":
                patch.delitem(sys.modules, what, raising=False)
                runpy.run_module(what, run_name="__main__")
            else:
                exec(what, {})  # noqa: S102
    (path,) = (path for path in made if path.exists())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ctclip.pt", "ct_lipro.pt"])
def test_remedies_work(file: str, golden: Golden, tmp_path: Path) -> None:
    loaded: State = torch.load(golden.folder / file, weights_only=True)
    state = {name: tensor.flatten()[:2].clone() for name, tensor in loaded.items()}
    second = {n: t * 1.5 if t.is_floating_point() else t for n, t in state.items()}
    expected = {}
    for name, model in (("s", state), ("o", second), ("p", plain(second))):
        torch.save(model, tmp_path / f"{name}.pt")
        expected[name] = read_contents(tmp_path / f"{name}.pt")
    for index, (name, (make, message, made)) in enumerate(REFUSED.items()):
        folder = tmp_path / f"it's {index}"
        folder.mkdir()
        torch.save(make(state, second), folder / "a file.pt")
        with pytest.raises(InvalidInput, match=message) as caught:
            read_contents(folder / "a file.pt")
        commands = printed(caught.value.remedy)
        assert len(commands) == len(made), (name, caught.value.remedy)
        assert commands or "model.state_dict()" in caught.value.remedy
        for command, which in zip(commands, made, strict=True):
            path = run(command, in_shell=name == "a path" and file == "ctclip.pt")
            assert_equal(read_contents(path), expected[which], name)
            path.unlink()


def test_names_of_a_classifier_that_no_command_mends(
    classfine: State, load: Load, tmp_path: Path
) -> None:
    for names in (
        [n.removeprefix("trained_model.") if "text" in n else n for n in classfine],
        [f"net.{n}" if "text" in n else n.replace("trained_model.", "") for n in classfine],
    ):
        torch.save(dict(zip(names, classfine.values(), strict=True)), tmp_path / "file.pt")
        with pytest.raises(InvalidInput, match="different ways") as caught:
            load(tmp_path / "file.pt")
        assert printed(caught.value.remedy) == []


def test_objects_without_a_model_beside_them(state: State, load: Load, tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    whole, cut = tmp_path / "file.pt", tmp_path / "cut.pt"
    for content in (module, {"model": module}, {"model": module, "rng": torch.zeros(3)},
                    {"a": [module]}, collections.deque([state]), {Path("x"): state}):  # fmt: skip
        torch.save(content, whole)
        with pytest.raises(InvalidInput, match="wants to run code") as caught:
            load(whole)
        assert "saved as an object. Have the program" in caught.value.remedy
        assert_exits([whole, tmp_path / "out.pt"], "model.state_dict()")
    for hostile in (eval, exec, compile, __import__, getattr, open, input):
        torch.save({"model": state, "f": hostile}, whole)
        with pytest.raises(InvalidInput, match="wants to run code") as caught:
            load(whole)
        assert caught.value.remedy.startswith("Do not load it by other means"), hostile
    torch.save({"model": state, "out": Path("x")}, whole)
    cut.write_bytes(whole.read_bytes()[:99_999])
    assert_exits([cut, tmp_path / "out.pt"], str(cut))
    assert_exits([tmp_path / "none.pt", tmp_path / "out.pt"], "none.pt")
    assert_exits([whole, whole], "is read from")
    assert_exits([whole], "usage")
    assert_exits([whole, tmp_path / "no" / "out.pt"], "no")
    assert not (tmp_path / "out.pt").exists()


def test_export_says_what_was_taken(
    state: State, classfine: State, golden: Golden, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def stop(*_: Any, **__: Any) -> None:
        raise InvalidInput("stopped.")

    monkeypatch.setattr("ctclip_export.repository.build.export_repository", stop)
    flags = ["--text-model", str(golden.text_model), "--volume-shape", golden.volume_shape_flag,
             "--out", str(tmp_path / "out")]  # fmt: skip
    for name, content in (("model.pt", state), ("head.pt", classfine)):
        torch.save(content, tmp_path / name)
    names = ["--checkpoint", str(tmp_path / "model.pt"), "--classfine", str(tmp_path / "head.pt")]
    assert main(["export", *names, *flags]) == 2
    assert "not looked at" not in capsys.readouterr().err
    ema = {n: t for n, t in state.items() if "_codebook" not in n}
    torch.save({"a": {0: state, 1: ema}, "ema": ema}, tmp_path / "model.pt")
    torch.save({"net": classfine, "epoch": 3}, tmp_path / "head.pt")
    assert main(["export", *names, *flags]) == 2
    told = capsys.readouterr().err
    for line in ('taken from entry ["a"][0]; not looked at: ["ema"] (dict), ["a"][1] (dict)\n',
                 "head.pt: ClassFine (CT-LiPro)", 'not looked at: ["epoch"] (int)\n'):  # fmt: skip
        assert line in told


def assert_exits(arguments: list[Path], told: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(told)):
        tensors_alone([str(path) for path in arguments])


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
        (lambda s, folder: save_parts(s, folder, save_file, ".safetensors"), "one of 3 that"),
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
    command, *_ = printed(caught.value.remedy)
    assert_same(load(run(command)), load(golden.checkpoint))


def test_names_as_of_parts(
    classfine: State, state: State, load: Load, golden: Golden, tmp_path: Path
) -> None:
    epochs = [tmp_path / f"epoch-0000{number}-of-00003.pt" for number in (1, 2, 3)]
    for whole in (state, {"model": classfine}):
        torch.save(whole, epochs[1])
        load(epochs[1])
    headless = {n: t for n, t in classfine.items() if not n.startswith("classifier.")}
    half = {n: t for n, t in state.items() if "latent" not in n}
    for part in (headless, {"model": headless}, half, {"model": half}, {"a": torch.ones(1)}):
        torch.save(part, epochs[0])
        with pytest.raises(CTClipError, match="one of 3 files") as caught:
            load(epochs[0])
        assert "2 stand in this one" in caught.value.remedy
        assert not printed(caught.value.remedy)
    torch.save(half, epochs[2])
    for beside in ({"model": classfine}, state):
        torch.save(beside, epochs[1])
        with pytest.raises(CTClipError, match="one of 3 files") as caught:
            load(epochs[2])
        (command,) = printed(caught.value.remedy)
        with pytest.raises(SystemExit, match="no parts of one model"):
            run(command)
        assert sorted(tmp_path.iterdir()) == epochs
