"""Layers below the adapter compute each row once: the same bits whatever was kept, and what is refused."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTModel,
)

from contpeft.adapters import AdaptedModel, FrozenPrefix, PrefixCache
from contpeft.adapters.folded import Fold
from contpeft.errors import SpecError, UnsupportedError, UsageError
from contpeft.spec import AdapterSpec, Base

SIZES = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
PICTURES = dict(image_size=8, patch_size=4, **SIZES)


def encoder(family: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: dict[str, Any] = {
            "bert": lambda: BertModel(BertConfig(vocab_size=32, **SIZES)),
            "roberta": lambda: RobertaModel(RobertaConfig(vocab_size=32, **SIZES)),
            "distilbert": lambda: DistilBertModel(
                DistilBertConfig(vocab_size=32, dim=16, n_layers=3, n_heads=2, hidden_dim=32)
            ),
            "vit": lambda: ViTModel(ViTConfig(**PICTURES), add_pooling_layer=False),
            "dinov2": lambda: Dinov2Model(Dinov2Config(**PICTURES)),
        }
        return made[family]().eval()


TARGETS = {
    "distilbert": ("q_lin", "v_lin"),
    "dinov2": ("q_proj", "v_proj"),
    "vit": ("q_proj", "v_proj"),
}


class Module(nn.Module):
    """A module that asks its encoder by the names it is given."""

    def __init__(self, family: str) -> None:
        super().__init__()
        self.model: Any = encoder(family)

    def forward(self, **batch: Tensor) -> Tensor:
        return self.model(**batch).last_hidden_state


def adapted(family: str = "bert", first: int = 2) -> AdaptedModel:
    """Returns an encoder of three layers, adapted from layer ``first`` on, nothing at its start value."""
    module = Module(family)
    found = AdaptedModel.of(module)
    names = [n for n, m in module.model.named_modules() if isinstance(m, nn.Linear)]
    targets = TARGETS.get(family, ("query", "value"))
    own = [n for n in names if n.endswith(targets) and any(f".{layer}." in n for layer in range(first, 3))]
    found.attach(AdapterSpec("lora", r=2, targets=own))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in found.attachment.parameters():
            parameter.normal_()
    return found


def texts(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.randint(2, 32, (len(lengths), width), generator=drawn)
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def pictures(count: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))}


def seen(batch: dict[str, Tensor], states: Tensor) -> Tensor:
    """Returns the states of what is no padding."""
    return states[batch["attention_mask"].bool()] if "attention_mask" in batch else states


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "vit", "dinov2"])
def test_answers_are_those_of_the_whole_model(family: str) -> None:
    found = adapted(family)
    batch = pictures(3) if family in ("vit", "dinov2") else texts(6, 3, 5)
    with torch.no_grad():
        plain = seen(batch, found.module(**batch))
        cache = PrefixCache("1MB")
        with FrozenPrefix(found, cache) as prefix:
            prefix.check()
            first, second = found.module(**batch), found.module(**batch)
        assert (cache.misses, cache.hits, len(cache)) == (3, 3, 3)
        assert torch.equal(first, second)
        torch.testing.assert_close(seen(batch, first), plain, atol=2e-6, rtol=1e-5)
        assert torch.equal(seen(batch, found.module(**batch)), plain)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=4), st.integers(1, 4000), st.booleans())
def test_a_row_is_the_same_in_every_company_and_with_every_cache(
    rows: list[int], size: int, warm: bool
) -> None:
    found, every = _FOUND, texts(6, 2, 5, 6, 3, 4, 6, 1)
    width = int(every["attention_mask"][rows].sum(1).max())
    batch = {name: value[rows][:, :width] for name, value in every.items()}
    with torch.no_grad():
        with FrozenPrefix(found) as prefix:
            found.module(**every)
            alone = [prefix.read[row] for row in rows]
        with FrozenPrefix(found, PrefixCache(size)) as cached:
            if warm:
                found.module(**every)
            found.module(**batch)
            assert all(torch.equal(one, other) for one, other in zip(cached.read, alone, strict=True))


_FOUND = adapted()


def test_layers_below_the_adapter_are_not_run_again() -> None:
    found, batch = adapted(), texts(4, 4)
    ran: list[int] = []
    for number, layer in enumerate(found.model.encoder.layer):
        layer.intermediate.register_forward_hook(lambda *_, number=number: ran.append(number))
    with torch.no_grad(), FrozenPrefix(found, PrefixCache("1MB")):
        found.module(**batch)
        assert ran == [0, 1, 0, 1, 2]  # row by row, then the adapted layer on both
        found.module(**batch)
        assert ran[5:] == [2]


def test_the_adapter_learns_what_it_learns_without() -> None:
    batch = texts(6, 6, 6)

    def gradients(prefix: bool) -> list[Tensor]:
        found = adapted()
        for parameter in found.model.parameters():
            parameter.requires_grad_(False)
        own = found.attachment.trainable()
        for parameter in own:
            parameter.requires_grad_(True)
        if prefix:
            with FrozenPrefix(found, PrefixCache("1MB")):
                found.module(**batch).square().sum().backward()
        else:
            found.module(**batch).square().sum().backward()
        return [parameter.grad for parameter in own]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_what_was_kept_in_inference_serves_training() -> None:
    found, batch = adapted(), texts(5, 5)
    with FrozenPrefix(found, PrefixCache("1MB")):
        with torch.inference_mode():
            found.module(**batch)
        found.module(**batch).sum().backward()


def test_depth_follows_what_is_in_the_model() -> None:
    found, batch, cache = adapted(first=1), texts(4, 6), PrefixCache("1MB")
    with torch.no_grad():
        with found.applied(Base()):
            bare = seen(batch, found.module(**batch))
        plain = seen(batch, found.module(**batch))
        with FrozenPrefix(found, cache):
            with found.applied(Base()):
                torch.testing.assert_close(seen(batch, found.module(**batch)), bare, atol=2e-6, rtol=1e-5)
            assert len(cache) == 2
            torch.testing.assert_close(seen(batch, found.module(**batch)), plain, atol=2e-6, rtol=1e-5)
            assert (len(cache), cache.hits) == (4, 0)


def test_layers_whose_weights_are_folded_are_computed() -> None:
    found, batch = adapted(first=1), texts(4, 6)
    state = found.state()
    found.detach()
    fold = Fold(found.model)
    fold.add(state, 1.0)

    def answers() -> tuple[Tensor, Tensor]:
        with ExitStack() as undo:
            for guest in fold.guests():
                guest.put_in(found.model, undo)
            folded = seen(batch, found.module(**batch))
        return folded, seen(batch, found.module(**batch))

    with torch.no_grad():
        plain = answers()
        assert (plain[0] - plain[1]).abs().max() > 0.1
        with FrozenPrefix(found, PrefixCache("1MB")):
            for told in (answers(), answers()):
                torch.testing.assert_close(told, plain, atol=2e-6, rtol=1e-5)


def test_with_an_adapter_in_the_first_layer_all_is_computed() -> None:
    found, batch, cache = adapted(first=0), texts(4, 6), PrefixCache("1MB")
    with torch.no_grad():
        plain = found.module(**batch)
        with FrozenPrefix(found, cache) as prefix:
            assert torch.equal(found.module(**batch), plain)
            assert len(cache) == 0
            with pytest.raises(UnsupportedError, match=r"changes the first of 3; .*transform=\[1, 2\]"):
                prefix.check()


@pytest.mark.parametrize("method", ["prompt_tuning", "trainable_tokens"])
def test_what_changes_the_inputs_leaves_nothing_to_keep(method: str) -> None:
    options = {"num_virtual_tokens": 2} if method == "prompt_tuning" else {"token_indices": [3]}
    found = AdaptedModel.of(Module("bert"))
    with FrozenPrefix(found, PrefixCache("1MB")) as prefix:
        prefix.check()
        found.attach(AdapterSpec(method, **options))
        with pytest.raises(UnsupportedError, match="a prefix cache keeps what the layers below"):
            prefix.check()


def test_blocks_may_be_one_in_the_other() -> None:
    found, outer = adapted(), PrefixCache("1MB")
    with torch.no_grad(), FrozenPrefix(found, outer):
        with FrozenPrefix(found):
            found.module(**texts(3))
        assert len(outer) == 0
        found.module(**texts(3))
        assert len(outer) == 1
    assert "forward" not in vars(found.model)


# --- the bound ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 6), st.booleans()), max_size=60))
def test_a_cache_is_never_larger_than_it_may_be(asked: list[tuple[int, int, bool]]) -> None:
    cache, sizes = PrefixCache(40), {}
    for row, length, renew in asked:
        if renew:
            cache.next_round()
        size = sizes.setdefault(row, length)
        key = bytes([row])
        found = cache.get(key)
        if found is None:
            cache.put(key, torch.full((size,), float(row)))
        else:
            assert torch.equal(found, torch.full((size,), float(row)))
        assert cache.nbytes <= 40
    assert cache.hits + cache.misses == len(asked)


def test_rows_read_in_turn_do_not_push_each_other_out() -> None:
    cache = PrefixCache(8)

    def epoch(rows: range) -> int:
        before = cache.hits
        for row in rows:
            if cache.get(bytes([row])) is None:
                cache.put(bytes([row]), torch.zeros(1))
        return cache.hits - before

    assert [epoch(range(4)) for _ in range(3)] == [0, 2, 2]
    cache.next_round()
    assert [epoch(range(10, 14)) for _ in range(2)] == [0, 2]


def test_what_never_fits_pushes_nothing_out() -> None:
    cache = PrefixCache(8)
    cache.put(b"small", torch.zeros(1))
    cache.next_round()
    cache.put(b"large", torch.zeros(3))
    assert cache.get(b"small") is not None
    assert (cache.nbytes, len(cache)) == (4, 1)


@pytest.mark.parametrize(("size", "error"), [(0, SpecError), ("0MB", SpecError), ("much", UsageError)])
def test_a_cache_without_a_size_is_refused(size: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        PrefixCache(size)


# --- what is refused ------------------------------------------------------------------------------


def test_other_models_are_refused_by_name() -> None:
    module = nn.Module()
    module.model = GPT2Model(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(UnsupportedError, match="lower layers of a gpt2 model cannot be skipped"):
        FrozenPrefix(AdaptedModel.of(module))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"output_hidden_states": True}, "a call with output_hidden_states"),
        ({"position_ids": torch.arange(4).unsqueeze(0)}, "a call with position_ids"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, r"not \(1, 1, 4, 4\)"),
    ],
)
def test_other_calls_are_refused_by_name(more: dict[str, Any], named: str) -> None:
    found = adapted()
    with FrozenPrefix(found), pytest.raises(UnsupportedError, match=named):
        found.module(**{**texts(4), **more})


def test_dropout_below_the_adapter_is_refused() -> None:
    found = adapted()
    found.model.train()
    with FrozenPrefix(found), pytest.raises(UnsupportedError, match="below the adapter are in train mode"):
        found.module(**texts(4))
