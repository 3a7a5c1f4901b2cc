"""BERT's WordPiece tokenizer from a `vocab.txt`, by the `tokenizers` package and nothing else."""

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_vocabulary(text: str) -> list[str]:
    """The tokens of a `vocab.txt`, one a line, in order of their ids."""
    tokens = [line.removesuffix("\r") for line in text.split("\n")]
    return tokens[:-1] if tokens[-1] == "" else tokens


def bert_tokenizer(vocabulary: str, max_tokens: int) -> Tokenizer:
    """What `BertTokenizer(do_lower_case=True)` does, for the text of a `vocab.txt`.

    Longer texts are cut to `max_tokens`; a batch is padded to its longest text.
    """
    ids = {token: index for index, token in enumerate(read_vocabulary(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))  # noqa: S106
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token in SPECIAL_TOKENS if token in ids]
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.enable_truncation(max_length=max_tokens)
    tokenizer.enable_padding(pad_id=ids["[PAD]"], pad_token="[PAD]")  # noqa: S106
    return tokenizer
