"""One adapter of every method at weight 1: itself, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_methods import each_method, quiet, spec
from adapters_tiny import CLASSES, bert, logits, trained

from contpeft.adapters import AdaptedModel
from contpeft.adapters.variants import is_plain
from contpeft.errors import UnsupportedError
from contpeft.merging.kinds import MERGEABLE
from contpeft.spec import AdapterSpec, AdapterState
from contpeft.store import AdapterStore, Request

pytestmark = pytest.mark.usefixtures("no_compiler")
RULES = ("average", "sum")


def learnt(how: AdapterSpec, folder: Path) -> tuple[AdapterStore, AdapterState]:
    store = AdapterStore(folder / "store")
    adapted = AdaptedModel.of(bert())
    state = trained(adapted, how, classes=CLASSES)
    store.register("one", state, base=adapted.base)
    return store, state


def answers(state: AdapterState) -> torch.Tensor:
    adapted = AdaptedModel.of(bert())
    adapted.attach_state(state)
    return logits(adapted.module)


def attempt(store: AdapterStore, rule: str) -> AdapterState | str:
    """Returns the merge of the one adapter, or why there is none."""
    try:
        return store.fusion.candidate(Request(["one"], rule=rule)).state
    except UnsupportedError as error:
        return str(error)


@quiet
@each_method
def test_one_adapter_of_every_method_is_itself_or_refused(method: str, tmp_path: Path) -> None:
    store, state = learnt(spec(method), tmp_path)
    made = [attempt(store, rule) for rule in RULES]
    mergeable = state.kind in MERGEABLE and is_plain(method)
    for merged in made:
        if isinstance(merged, str):
            assert repr(state.kind) in merged or "use_dora" in merged
        else:
            torch.testing.assert_close(answers(merged), answers(state), rtol=1e-5, atol=1e-6)
    assert any(not isinstance(merged, str) for merged in made) is mergeable
    store.close()


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"trainable_token_indices": [1, 2]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_lora_with_more_than_two_factors_is_refused_by_name(options: dict[str, Any], tmp_path: Path) -> None:
    store, _ = learnt(AdapterSpec("lora", **options), tmp_path)
    with pytest.raises(UnsupportedError, match=next(iter(options))):
        store.fusion.candidate(Request(["one"]))
    store.close()


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"rank_pattern": {"query": 3}, "alpha_pattern": {"value": 40}},
        {"targets": ["query", "word_embeddings"]},
        {"targets": ["1.attention.self.query", "1.output.dense"]},
    ],
    ids=["rslora", "patterns", "embeddings", "layers"],
)
def test_one_lora_of_every_form_is_itself(options: dict[str, Any], tmp_path: Path) -> None:
    store, state = learnt(AdapterSpec("lora", **options), tmp_path)
    merged = store.fusion.candidate(Request(["one"])).state
    assert merged.config["lora_alpha"] == merged.config["r"]
    torch.testing.assert_close(answers(merged), answers(state), rtol=1e-5, atol=1e-6)
    store.close()
