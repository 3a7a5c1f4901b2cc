"""The tokenizer that runs in Triton against `BertTokenizer`."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctclip_client.contract import MAX_TOKENS
from ctclip_export.repository import python_models
from ctclip_export.text.word_pieces import bert_tokenizer

from ..conftest import DATA, Golden

REPOSITORY = Path(__file__).parents[2] / "model_repository"
FOLDER = DATA / "golden" / "small" / "text_model"
OURS = bert_tokenizer((FOLDER / "vocab.txt").read_text(encoding="utf-8"), MAX_TOKENS)


@functools.cache
def theirs() -> Any:
    from transformers import BertTokenizer  # seconds, which every worker would wait for

    return BertTokenizer.from_pretrained(str(FOLDER), do_lower_case=True)


def assert_same(texts: list[str]) -> None:
    expected = theirs()(texts, padding="longest", truncation=True, max_length=MAX_TOKENS)
    got = OURS.encode_batch(texts)
    assert [encoding.ids for encoding in got] == expected["input_ids"]
    assert [encoding.attention_mask for encoding in got] == expected["attention_mask"]


@pytest.mark.parametrize("kind", ["prompt", "report"])
def test_golden_texts(kind: str, golden: Golden) -> None:
    texts = golden.case["report_texts"]
    if kind == "prompt":
        texts = [
            sentence
            for name in golden.case["pathologies"]
            for sentence in (f"{name} is present.", f"{name} is not present.")
        ]
    expected = golden.expected[f"{kind}_input_ids"]
    for encoding, row in zip(OURS.encode_batch(texts), expected, strict=True):
        ids = [i for i, kept in zip(encoding.ids, encoding.attention_mask, strict=True) if kept]
        assert ids == row[row != 0].tolist()
    assert_same(texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\r\n ",
        "Pleural Effusion",
        "no-effusion,5mm/3cm(left)",
        "[CLS] wall [SEP] [MASK] [PAD]",
        "[cls] [UNK]x",
        "Kérley B línes, naïve façade",
        "ſtraße İstanbul Ⅷ ﬁbrotic",
        "肺 结节 소결절 узелок",
        "a\u0301\u200b\u00ad\ufeffb\u0000c",
        "nodule" * 40,
        "😀 5 mm 🫁",
        "wall " * 511,
        "wall " * 510,
        "'\"()`´“”",
    ],
)
def test_odd_texts(text: str) -> None:
    assert_same([text])
    assert_same([text, "lung nodule is present."])


@settings(max_examples=300, deadline=None, print_blob=True)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_any_text(texts: list[str]) -> None:
    assert_same(texts)


def test_windows_line_ends_in_the_vocabulary() -> None:
    text = (FOLDER / "vocab.txt").read_text(encoding="utf-8")
    windows = bert_tokenizer(text.replace("\n", "\r\n"), MAX_TOKENS)
    assert windows.get_vocab() == OURS.get_vocab()


@pytest.mark.parametrize("name", ["ctclip_tokenizer", "ctclip_check"])
def test_a_parameter_without_effect_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ModuleType("triton_python_backend_utils")
    backend.TritonModelException = ValueError  # type: ignore[attr-defined]
    package = ModuleType(name)
    package.__path__ = [str(REPOSITORY / name / "1")]
    for module in (backend, package):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    model = importlib.import_module(f"{name}.model").TritonPythonModel()
    parameters = {"do_lower_case": {"string_value": "1"}}
    with pytest.raises(ValueError, match="parameter do_lower_case has no effect"):
        model.initialize({"model_config": json.dumps({"parameters": parameters})})


def test_models_import_only_what_the_container_has() -> None:
    """The container adds `tokenizers`; numpy comes with Triton's Python backend."""
    allowed = {
        "ctclip_tokenizer": {
            "hashlib", "json", "numpy", "pathlib", "tokenizers", "triton_python_backend_utils",
        },
        "ctclip_check": {"json", "numpy", "pathlib", "triton_python_backend_utils"},
        "ctclip_gate": {"triton_python_backend_utils"},
    }  # fmt: skip
    for model, modules in allowed.items():
        imported: set[str] = set()
        for source in (Path(python_models.__file__).parent / model).glob("*.py"):
            for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    imported.add(str(node.module))
        assert imported <= modules, model
