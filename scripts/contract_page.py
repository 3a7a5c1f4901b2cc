"""Write the generated tables of docs/contract.md from the contract.

    .venv/bin/python scripts/contract_page.py            # write what changed
    .venv/bin/python scripts/contract_page.py --check    # exit 1 where the page is stale

All else on the page is written by hand. A table stands between `<!-- generated: NAME -->` and
`<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctclip_client.contract import (
    CLASSFINE_ENSEMBLES,
    CLASSFINE_MODELS,
    ENSEMBLES,
    MODELS,
    Ensemble,
    Model,
    Tensor,
)

PAGE = Path(__file__).parents[1] / "docs" / "contract.md"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
PURPOSES = {
    "ctclip_pathologies": "probabilities of the release's own findings",
    "ctclip_zero_shot": "probabilities of findings in your own words",
    "ctclip_image_embedding": "the scan as a vector, for search",
    "ctclip_text_embedding": "texts as vectors, for search and for more than fits into one request",
    "ctclip_explain": "findings, and how much each part of the scan counts for them",
    "ctclip_classify": "probabilities of a trained classification head",
    "ctclip_gate": "lets a scan go on once its prompts are encoded, in pairs",
    "ctclip_check": "refuses metadata that cannot be a CT's, names the release",
    "ctclip_preprocess": "stored voxels to the model's grid",
    "ctclip_vision": "image encoder",
    "ctclip_tokenizer": "texts to word pieces",
    "ctclip_text": "text encoder",
    "ctclip_score": "image vectors against pairs of text vectors",
    "ctclip_findings": "image vectors against the release's own findings",
    "ctclip_relevance": "each token's share in a finding's logits",
    "ctclip_classfine": "a trained classification head, ClassFine's or a linear one",
}


def shapes(tensors: Iterable[Tensor], batch: int) -> str:
    first = ("B",) if batch else ()
    return "<br>".join(
        f"{tensor.name} {tensor.dtype} [{', '.join(map(str, (*first, *tensor.dims)))}]"
        for tensor in tensors
    )


def row(entry: Model | Ensemble) -> str:
    batch = entry.max_batch_size if isinstance(entry, Model) else 0
    purpose = PURPOSES[entry.name]
    if entry in (*CLASSFINE_ENSEMBLES, *CLASSFINE_MODELS):
        purpose += " (if exported)"
    if isinstance(entry, Model) and entry.further_files:
        purpose += f"; for GPUs as `{'`, `'.join(entry.further_files)}`, with the same values"
    if batch:
        purpose += f"; B up to {batch}"
    cells = (f"`{entry.name}`", purpose, shapes(entry.inputs, batch), shapes(entry.outputs, batch))
    return f"| {' | '.join(cells)} |\n"


def table(entries: Sequence[Model | Ensemble]) -> str:
    head = "| model | what for | inputs | outputs |\n| --- | --- | --- | --- |\n"
    return head + "".join(map(row, entries))


def generated(page: str) -> str:
    """The page with its tables as the contract has them now."""
    tables = {
        "ensembles": table((*ENSEMBLES, *CLASSFINE_ENSEMBLES)),
        "models": table((*MODELS, *CLASSFINE_MODELS)),
    }
    if sorted(name for _, name, _ in BLOCK.findall(page)) != sorted(tables):
        raise SystemExit(f"The page must have one block for each of {', '.join(tables)}.")
    return BLOCK.sub(lambda block: block[1] + tables[block[2]] + block[3], page)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the generated tables of docs/contract.md.")
    parser.add_argument("page", nargs="?", type=Path, default=PAGE)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    arguments = parser.parse_args()
    before = arguments.page.read_text(encoding="utf-8")
    after = generated(before)
    if arguments.check and before != after:
        raise SystemExit(f"{arguments.page} is stale. Run scripts/contract_page.py.")
    arguments.page.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
