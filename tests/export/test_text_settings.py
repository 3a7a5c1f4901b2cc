"""A text model's settings: each is honoured, refused by name, or shown to change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from ctclip_client.contract import MAX_TOKENS
from ctclip_client.errors import InvalidInput
from ctclip_export.checkpoint import TextModel, read_text_model
from ctclip_export.text.bert_config import read_config
from ctclip_export.text.tokens import tokenised

from ..conftest import DATA

SOURCE = DATA / "golden" / "small" / "text_model"
VOCABULARY = (SOURCE / "vocab.txt").read_bytes()
TEXTS = [
    "Kérley naïve 肺结节 [CLS] [cls] Nodule NODULE nodule.",
    "lung " + "wall " * 600,
    "[MASK]x wall[SEP]wall a\u0301 [mask] @@wall ##wall",
    "",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCE, tmp_path / "text_model"))


def change(path: Path, **fields: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | fields))


def assert_same_ids(folder: Path, name: str = "") -> TextModel:
    """As BertTokenizer makes them of the same folder."""
    model = read_text_model(folder)
    ids, mask = tokenised(TEXTS, model.vocabulary_bytes.decode())
    theirs = transformers.BertTokenizer.from_pretrained(str(folder), do_lower_case=True)
    expected = theirs(TEXTS, padding="longest", truncation=True, max_length=MAX_TOKENS)
    assert ids.tolist() == expected["input_ids"], name
    assert mask.tolist() == expected["attention_mask"], name
    return model


def own(content: str, **flags: bool) -> dict[str, Any]:
    """A token as these files hold it."""
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    return {"__type": "AddedToken", "content": content, "special": True, **plain, **flags}


LIKE_CXR_BERT = {
    "do_lower_case": True, "do_basic_tokenize": True, "never_split": None, "strip_accents": None,
    "tokenize_chinese_chars": True, "unk_token": "[UNK]", "sep_token": "[SEP]",
    "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
    "model_max_length": 10**30, "special_tokens_map_file": None, "name_or_path": "elsewhere",
    "tokenizer_class": "CXRBertTokenizer",
    "auto_map": {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]},
}  # fmt: skip
KEPT: Mapping[str, tuple[object, ...]] = {
    "strip_accents": (True, None),
    "never_split": (None, [], ["[CLS]"]),
    "model_max_length": (10**30, 1e30, None, 512),
    "tokenizer_class": ("BertTokenizer", "BertTokenizerFast", "CXRBertTokenizer", None),
    "mask_token": (own("[MASK]"), own("[MASK]", lstrip=True, rstrip=True)),
    "added_tokens_decoder": ({"2": own("[CLS]"), "0": own("[PAD]")}, {}),
    "additional_special_tokens": ([], ["[MASK]"], None),
    "extra_special_tokens": ({}, [], {"x_token": "[SEP]"}),
    "bos_token": (None, "[CLS]"),
    # without effect on ids, as upstream calls it
    "clean_up_tokenization_spaces": (False, True),
    "max_length": (8,),
    "stride": (3,),
    "pad_to_multiple_of": (8,),
    "truncation_strategy": ("only_second",),
    "model_input_names": (["input_ids", "attention_mask"],),
    "backend": ("tokenizers",),
    "chat_template": ("x",),
}
REFUSED: Mapping[str, tuple[object, ...]] = {
    "do_lower_case": (False, None, "no"),
    "do_basic_tokenize": (False,),
    "strip_accents": (False,),
    "tokenize_chinese_chars": (False,),
    "clean_text": (False,),
    "wordpieces_prefix": ("@@",),
    "split_special_tokens": (True,),
    "padding_side": ("left",),
    "truncation_side": ("left",),
    "vocab": ({"[PAD]": 0}, "vocab.txt"),
    "never_split": (["Nodule"], "Nodule"),
    "model_max_length": (128, "512", True),
    "tokenizer_class": ("RobertaTokenizer", "DebertaV2Tokenizer", "TokenizersBackend"),
    "unk_token": ("[MASK]", None, own("[SEP]"), 7),
    "pad_token": ("[UNK]",),
    "cls_token": ("[SEP]", own("[CLS]", normalized=True)),
    "sep_token": ("nodule",),
    "mask_token": ("nodule", own("[MASK]", single_word=True)),
    "bos_token": ("nodule",),
    "eos_token": ("nodule",),
    "additional_special_tokens": (["[CLS]", "nodule"], [own("wall")]),
    "extra_special_tokens": ({"x_token": "nodule"},),
    "added_tokens_decoder": ({"5": own("nodule")}, {"1": own("[CLS]")}, {"132": own("new")}),
}


def test_tokenizer_config(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    before = path.read_text()
    for field, values in KEPT.items():
        for value in values:
            path.write_text(before)
            change(path, **{field: value})
            assert_same_ids(folder, f"{field}: {value}")
    change(path, **LIKE_CXR_BERT)
    assert_same_ids(folder)
    for field, values in REFUSED.items():
        for value in values:
            path.write_text(before)
            change(path, **{field: value})
            with pytest.raises(InvalidInput, match=rf"tokenizer_config\.json: {field} is .*expec"):
                read_text_model(folder)


def test_further_files(folder: Path) -> None:
    specials, added = folder / "special_tokens_map.json", folder / "added_tokens.json"
    change(specials, cls_token="[CLS]", mask_token=own("[MASK]"))  # noqa: S106
    change(added, **{"[PAD]": 0, "[MASK]": 4})
    assert_same_ids(folder)
    for path, fields, message in (
        (specials, {"cls_token": "[SEP]"}, "special_tokens_map.json: cls_token"),
        (specials, {"additional_special_tokens": ["new"]}, "map.json: additional_special_tokens"),
        (added, {"naïve": 132}, "added_tokens.json: naïve is 132"),
        (added, {"[PAD]": 1}, r"added_tokens.json: \[PAD\] is 1"),
        (added, {"[PAD]": []}, r"added_tokens.json: \[PAD\] is \[\]"),
    ):
        before = path.read_text()
        change(path, **fields)
        with pytest.raises(InvalidInput, match=message):
            read_text_model(folder)
        path.write_text(before)


@pytest.mark.parametrize(
    "form",
    [
        b"\xef\xbb\xbf" + VOCABULARY,
        VOCABULARY.replace(b"\n", b"\r\n"),
        VOCABULARY + b"\n\r\n\n",
        VOCABULARY.rstrip(b"\n"),
    ],
)
def test_forms_of_a_vocabulary(form: bytes, folder: Path) -> None:
    (folder / "vocab.txt").write_bytes(form)
    assert read_text_model(folder) == read_text_model(SOURCE)


@pytest.fixture
def whole(folder: Path) -> dict[str, Any]:
    """`tokenizer.json` as this version of transformers writes it, with a folder around it."""
    transformers.BertTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    return content


def test_without_vocab_txt(folder: Path, whole: dict[str, Any]) -> None:
    for general in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        change(folder / "tokenizer_config.json", tokenizer_class=general)
        assert assert_same_ids(folder) == read_text_model(SOURCE)
    (folder / "vocab.txt").unlink(missing_ok=True)
    assert assert_same_ids(folder) == read_text_model(SOURCE)
    whole["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    del whole["model"]["type"]  # as older versions wrote it
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    assert read_text_model(folder) == read_text_model(SOURCE)


def swap(vocabulary: dict[str, int]) -> None:
    vocabulary["nodule"], vocabulary["wall"] = vocabulary["wall"], vocabulary["nodule"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t["normalizer"].update(lowercase=False), "normalizer.lowercase is false"),
        (lambda t: t["normalizer"].update(strip_accents=False), "normalizer.strip_accents"),
        (lambda t: t["normalizer"].update(type="NFC"), "normalizer.type"),
        (lambda t: t.update(normalizer=None), "normalizer is null"),
        (lambda t: t["pre_tokenizer"].update(type="Whitespace"), "pre_tokenizer.type"),
        (lambda t: t["model"].update(max_input_chars_per_word=3), "max_input_chars_per_word is 3"),
        (lambda t: t["model"].update(continuing_subword_prefix="@@"), "continuing_subword_prefix"),
        (lambda t: t["model"].update(type="BPE"), "model.type"),
        (lambda t: swap(t["model"]["vocab"]), "another vocabulary"),
        (lambda t: t["post_processor"]["single"].pop(), "post_processor"),
        (lambda t: t.update(post_processor=None), "post_processor is null"),
        (lambda t: t["added_tokens"].append(own("new") | {"id": 132}), "added_tokens"),
        (lambda t: t["added_tokens"][2].update(normalized=True), "added_tokens"),
        (lambda t: t.update(padding={"direction": "Left"}), "padding.direction"),
        (lambda t: t.update(truncation={"direction": "Left"}), "truncation.direction"),
    ],
)
def test_other_tokenizers(
    spoil: Callable[[dict[str, Any]], object], message: str, folder: Path, whole: dict[str, Any]
) -> None:
    (folder / "vocab.txt").write_bytes(VOCABULARY)
    spoil(whole)
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(InvalidInput, match=f"tokenizer.json: .*{message}"):
        read_text_model(folder)


@pytest.mark.parametrize(
    "vocabulary",
    [None, [], {"[PAD]": 1}, {"a": 0, "b": 0}, {"a": "0"}, {"a\nb": 0}, {"\ud800": 0}, {"a": 0.0}],
)
def test_no_vocabularies(vocabulary: object, folder: Path, whole: dict[str, Any]) -> None:
    (folder / "vocab.txt").unlink(missing_ok=True)
    whole["model"]["vocab"] = vocabulary
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(InvalidInput, match=r"tokenizer\.json: model.vocab"):
        read_text_model(folder)


FURTHER: Mapping[str, object] = {  # of transformers 4, of CXR-BERT, of other models
    "position_embedding_type": "absolute", "pruned_heads": {}, "torch_dtype": "float32",
    "projection_size": 128, "gradient_checkpointing": False, "quantization_config": None,
    "is_decoder": False, "output_attentions": False, "torchscript": False, "temperature": 1.0,
    "per_layer_config": None, "auto_map": None, "_name_or_path": "", "tie_encoder_decoder": False,
}  # fmt: skip
OTHER = {
    "model_type": "roberta", "hidden_act": "relu", "position_embedding_type": "relative_key",
    "pruned_heads": {"0": [1]}, "quantization_config": {"load_in_8bit": True},
    "per_layer_config": {"0": {"hidden_act": "relu"}}, "hidden_size": 96, "torch_dtype": "float16",
    "dtype": "float16", "max_position_embeddings": 1024, "num_attention_heads": 2,
    "layer_norm_eps": 0.1, "classifier_dropout": 0.5, "problem_type": "regression",
    "architectures": ["CXRBertModel"], "transformers_version": "4.17.0", "vocab_size": 133,
    "id2label": {"0": "a"}, "label2id": {"a": 0},
}  # fmt: skip
"""Other values, where one more or the contrary would not do."""


def others(field: str, value: object) -> object:
    if field in OTHER:
        return OTHER[field]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value / 2
    return 5 if value is None else "other"


def cls_state(config: transformers.BertConfig, weights: dict[str, Tensor]) -> Tensor:
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(weights)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    with torch.no_grad():
        return model(torch.tensor([[2, 9, 50, 3], [2, 3, 0, 0]]), attention_mask=mask)[0][:, 0]


def test_every_field_of_bert_s_config(tmp_path: Path) -> None:
    stated = json.loads((SOURCE / "config.json").read_text())
    path = tmp_path / "config.json"
    base = transformers.BertConfig(**stated)
    torch.manual_seed(0)
    weights = transformers.BertModel(base, add_pooling_layer=False).state_dict()
    expected = cls_state(base, weights)
    served = asdict(read_config(SOURCE / "config.json"))
    honoured, refused = set(), set()
    for field, value in {**FURTHER, **base.to_dict()}.items():
        other = others(field, value)
        path.write_text(json.dumps({**stated, field: other}))
        try:
            found = asdict(read_config(path))
        except InvalidInput as error:
            refused.add(error.cause.split(": ")[1].split(" is ")[0])
            continue
        if found != served:
            honoured.add(field)
            continue
        if field in base.to_dict() and field != "dtype":  # how weights are kept, not what is served
            config = transformers.BertConfig(**{**stated, field: other})
            torch.testing.assert_close(cls_state(config, weights), expected, msg=field)
    assert refused == {
        "model_type", "hidden_act", "position_embedding_type", "is_decoder", "add_cross_attention",
        "is_encoder_decoder", "pruned_heads", "per_layer_config", "quantization_config",
    }  # fmt: skip
    assert honoured == {
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps",
    }  # fmt: skip
