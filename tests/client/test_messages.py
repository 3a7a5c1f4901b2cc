"""What commands print to be pasted can be pasted, and the flags that messages name exist."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctclip_client.cli.connection import add_connection_options, connection_flags
from ctclip_client.cli.program import command_words, main
from ctclip_export.repository.build import Export

from ..conftest import Golden

ROOT = Path(__file__).parents[2]
ODD = 'a b/it\'s $(x) `y` "z" *'
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"\bctclip ([a-z-]+)\b([^.,;:()]*)")
OF_OTHERS = {
    "--allow-client-shm", "--enable-shared", "--force", "--gpus", "--grpc-restricted-protocol",
    "--load-model", "--model-config-name", "--model-control-mode", "--profile", "--shm-size",
}  # fmt: skip
"""Flags of Triton, docker and pyenv that our messages name."""
OLD = {"--root-certificates", "--headers"}


def flags_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    for words in command_words():
        if words[0] == command:
            with pytest.raises(SystemExit):
                main([*words, "--help"])
    return set(FLAG.findall(capsys.readouterr().out))


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string of a module but its documentation; what is filled in stands as `{}`."""
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and id(node) not in inner:
            yield node.lineno, str(node.value)


def test_flags_that_messages_name_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = {name: flags_of(name, capsys) for name in {words[0] for words in command_words()}}
    every = set().union(*known.values()) | OF_OTHERS | OLD
    named = 0
    for room in ("client", "export", "analysis", "server", "benchmarks"):
        for path in sorted((ROOT / room / "src").rglob("*.py")):
            for line, text in texts(ast.parse(path.read_text())):
                where = f"{path.relative_to(ROOT)}:{line}: {text!r}"
                if " " not in text:  # an argument of a program that is called
                    continue
                unknown = set(FLAG.findall(text)) - every
                assert not unknown, (unknown, where)
                for command, rest in COMMAND.findall(text):
                    if command in known:
                        wrong = set(FLAG.findall(rest)) - known[command]
                        assert not wrong, (command, wrong, where)
                        named += 1
    assert named > 30


def pasted(text: str) -> list[str]:
    """The words of the command that is printed in a text."""
    line = next(line for line in text.splitlines() if "ctclip " in line)
    return shlex.split(line[line.index("ctclip ") :])


def test_commands_that_are_printed_can_be_pasted(
    golden: Golden,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / ODD
    assert main(["serve", "--repository", str(folder)]) == 2
    words = pasted(capsys.readouterr().err)
    assert words[:2] == ["ctclip", "export"]
    assert words[-2:] == ["--out", str(folder)]

    def exported(*_: object, **options: object) -> Export:
        return Export(folder, {"release": "r", "precision": "bf16"}, ())

    monkeypatch.setattr("ctclip_export.repository.build.export_repository", exported)
    checkpoint = ["--checkpoint", str(golden.checkpoint), "--text-model", str(golden.text_model)]
    shape = ["--volume-shape", golden.volume_shape_flag]
    assert main(["export", *checkpoint, *shape, "--out", str(folder)]) == 0
    serve = ["ctclip", "serve", "--repository", str(folder), "--config-name", "openvino"]
    assert pasted(capsys.readouterr().out) == serve

    parser = argparse.ArgumentParser()
    add_connection_options(parser, "")
    given = ["--url", "[::1]:8001", "--timeout-s", "5", "--headers-file", str(folder)]
    given += ["--tls-ca", str(folder)]
    again = parser.parse_args(shlex.split(connection_flags(parser.parse_args(given))))
    assert again == parser.parse_args(given)
