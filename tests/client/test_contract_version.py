"""What a client of version 1 calls is kept as data, and compared with the contract of today."""

from __future__ import annotations

import json
from pathlib import Path

from ctclip_client import contract
from ctclip_client.contract import Ensemble, Model, Tensor

VERSION_1 = Path(__file__).parents[1] / "data" / "contract_1.json"
ENTRIES = (
    *contract.MODELS, *contract.CLASSFINE_MODELS,
    *contract.ENSEMBLES, *contract.CLASSFINE_ENSEMBLES,
)  # fmt: skip


def described(entry: Model | Ensemble, tensors: tuple[Tensor, ...]) -> list[str]:
    """A line for each tensor, its batch axis (B) included."""
    batch = ["B"] if isinstance(entry, Model) and entry.max_batch_size else []
    return [f"{t.name} {t.dtype} {','.join(map(str, [*batch, *t.dims]))}" for t in tensors]


def test_what_a_client_of_version_1_calls_is_as_it_knew_it() -> None:
    """A line of the file changes only with VERSION, or where older clients read it all the same."""
    assert contract.VERSION == 1
    now = {entry.name: entry for entry in ENTRIES}
    for name, (inputs, outputs) in json.loads(VERSION_1.read_text(encoding="utf-8")).items():
        # One more input would be missing in an older request; more outputs do no harm.
        assert described(now[name], now[name].inputs) == inputs, name
        assert set(outputs) <= set(described(now[name], now[name].outputs)), name
