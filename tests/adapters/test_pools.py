"""Pools of prefixes in encoders: what the model computes with them, and what it is without."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from adapters_prompts import MASK, PIXELS, deit, electra, roberta
from adapters_prompts import dinov2 as dinov2_classifier
from adapters_tiny import IDS, bert, distilbert, encoder, gpt2, t5, vit
from pools_oracle import array, bank_prefix, cosines, mean_query, states
from pools_tiny import BANKS, attached, loud_encoder, stored
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from contpeft.adapters import AdaptedModel
from contpeft.adapters.pools import BankOptions
from contpeft.adapters.pools.attention import Slot, attention_modules
from contpeft.adapters.prompts.backbone import backbone_of
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState, Base


def told(model: nn.Module, ids: Tensor = IDS, mask: Tensor | None = MASK) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state


def by_hand(model: nn.Module, state: AdapterState, ids: Tensor = IDS, mask: Tensor = MASK) -> np.ndarray:
    """Returns the last states with keys and values put before the tokens' one by one."""
    AdaptedModel.of(model).detach()
    query, prefixes = mean_query(states(model, ids, mask), mask), {}
    for number, bank in enumerate(state.config["banks"]):
        own = {
            n.removeprefix(f"{number}."): t for n, t in state.tensors.items() if n.startswith(f"{number}.")
        }
        made = bank_prefix(bank["weighting"], bank["top"], own, query)
        for index, layer in enumerate(range(*bank["layers"])):
            pair = (made[:, index, 0], made[:, index, 1])
            before = prefixes.get(layer)
            prefixes[layer] = (
                pair if before is None else tuple(map(lambda *e: np.concatenate(e, 1), before, pair))
            )
    return states(model, ids, mask, prefixes)


@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_a_pool_is_keys_and_values_put_before_those_of_the_tokens(name: str, tasks: int, kind: str) -> None:
    model = loud_encoder()
    model.set_attn_implementation(kind)
    state = stored(model, BANKS[name], tasks)
    bare = told(model)
    attached(model, state)
    prompted = told(model)
    assert prompted.shape == bare.shape
    assert (prompted - bare).abs().max() > 0.1
    real = MASK.bool().numpy()
    np.testing.assert_allclose(array(prompted)[real], by_hand(model, state)[real], rtol=0, atol=2e-5)


def unbiased_t5() -> nn.Module:
    """Returns an encoder whose tokens do not score by their distance, of which a prefix has none."""
    model: Any = t5()
    nn.init.zeros_(model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)
    return model


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "deit": deit,
    "dinov2": dinov2_classifier,
    "distilbert": distilbert,
    "electra": electra,
    "roberta": roberta,
    "t5": unbiased_t5,
    "vit": vit,
}


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_that_repeats_the_tokens_changes_nothing(family: str, kind: str) -> None:
    model = FAMILIES[family]()
    model.set_attn_implementation(kind)
    slots = [Slot(each) for each in attention_modules(backbone_of(model))]
    vision = family in ("deit", "dinov2", "vit")
    inputs: dict[str, Any] = {"pixel_values": PIXELS} if vision else {"input_ids": IDS}
    seen: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        bare = answer(model, inputs)
        for slot in slots:
            slot.open()
            slot.attend = _spied(slot.attend, seen)
        assert torch.equal(answer(model, inputs), bare)
        pairs = list(seen)
        for slot, pair in zip(slots, pairs, strict=True):
            slot.put(*pair)
        torch.testing.assert_close(answer(model, inputs), bare, rtol=0, atol=1e-5)
        assert all(slot.read for slot in slots)
        assert [key.shape[2] for key, _ in seen[len(pairs) :]] == [2 * key.shape[2] for key, _ in pairs]
        for slot in slots:
            slot.put(pairs[0][0], 5 + pairs[0][1])
        assert (answer(model, inputs) - bare).abs().max() > 1e-4


def test_masks_and_biases_stay_with_their_tokens() -> None:
    module, given = nn.Module(), {}
    module.prefix_slot = SimpleNamespace(pair=(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4)))
    module.prefix_slot.attend = lambda *args, **told: given.update(told, mask=args[4])
    attend, tokens = ALL_ATTENTION_FUNCTIONS["contpeft_prefix"], torch.zeros(1, 2, 5, 4)
    bias, seen = torch.rand(1, 2, 5, 5), torch.rand(1, 1, 5, 5) < 0.5
    for mask in (seen, torch.where(seen, 0.0, -1e9)):
        attend(module, tokens, tokens, tokens, mask, position_bias=bias)
        assert torch.equal(given["mask"][..., 3:], mask)
        assert (given["mask"][..., :3] == (mask.dtype == torch.bool)).all()
        assert torch.equal(given["position_bias"], torch.cat([torch.zeros(1, 2, 5, 3), bias], dim=-1))
    attend(module, tokens, tokens, tokens, None)
    assert given["mask"] is None


def answer(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    output = model(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state


def _spied(attend: Callable[..., Any], seen: list[tuple[Tensor, Tensor]]) -> Callable[..., Any]:
    def spied(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append((key, value))
        return attend(module, query, key, value, *args, **kwargs)

    return spied


def test_padding_and_the_other_rows_of_a_batch_change_no_answer() -> None:
    model = loud_encoder()
    attached(model, stored(model, BANKS["attended"], 2))
    whole, real = told(model), MASK.bool()
    other = torch.where(real, IDS, 7)
    torch.testing.assert_close(told(model, other)[real], whole[real], rtol=0, atol=1e-5)
    for row in range(len(IDS)):
        length = int(MASK[row].sum())
        alone = told(model, IDS[row : row + 1, :length], None)
        torch.testing.assert_close(alone[0], whole[row, :length], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["all", "attended", "top"])
def test_a_row_has_the_prefix_that_its_query_makes(name: str) -> None:
    model = loud_encoder()
    state = stored(model, BANKS[name], tasks=2)
    own = {name.removeprefix("0."): each for name, each in state.tensors.items()}
    query = np.random.default_rng(0).normal(size=(6, 16))
    if "keys" in own:
        picked = np.argsort(-cosines(query, array(own["keys"])), axis=1)[:, :3]
        assert len({tuple(sorted(row)) for row in picked.tolist()}) > 1  # rows differ in what is nearest
    made = attached(model, state).banks[0](torch.tensor(query, dtype=torch.float32))
    np.testing.assert_allclose(array(made), bank_prefix(name, 3, own, query), atol=1e-5)


def test_while_it_is_trained_only_what_is_trained_is_picked() -> None:
    model = loud_encoder()
    pool = attached(model, stored(model, BANKS["dual"], tasks=3))
    bank: Any = pool.banks[1]
    query = torch.tensor(array(bank.frozen_keys), dtype=torch.float32)  # those of the tasks before
    components = bank.rows("components")
    torch.testing.assert_close(bank(query), components[:2])
    pool.train()
    torch.testing.assert_close(bank(query), components[2:].expand(2, -1, -1, -1, -1))
    wanted = (1 - cosines(array(query), array(bank.keys))).sum(1).mean()
    assert pool.distance().item() == pytest.approx(wanted, abs=1e-6)


def test_without_keys_there_is_no_distance() -> None:
    model = loud_encoder()
    pool = attached(model, stored(model, BANKS["all"]))
    pool.train()
    told(model)
    assert (pool.distance().item(), pool.dependence().item()) == (0.0, 0.0)


def test_the_query_is_the_base_without_gradients_and_without_dropout() -> None:
    model = loud_encoder()
    pool = attached(model, stored(model, BANKS["attended"]))
    passes: list[tuple[bool, bool]] = []
    model.embeddings.register_forward_pre_hook(
        lambda module, _: passes.append((torch.is_grad_enabled(), module.training))
    )
    model.train()
    modes = [module.training for module in model.modules()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model(input_ids=IDS, attention_mask=MASK).last_hidden_state.sum().backward()
    assert passes == [(False, False), (True, True)]
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pool.parameters())


def test_without_its_pool_the_model_is_the_base_to_the_bit() -> None:
    model = loud_encoder()
    adapted, bare = AdaptedModel.of(model), told(model)
    base, names = adapted.verify_base(), list(model.state_dict())
    configs = [module.config for module in attention_modules(model)]
    attached(model, stored(model, BANKS["attended"], 2))
    prompted = told(model)
    with adapted.applied(Base()):
        assert torch.equal(told(model), bare)
    assert torch.equal(told(model), prompted)
    assert adapted.verify_base() == base
    adapted.detach()
    assert torch.equal(told(model), bare)
    assert list(model.state_dict()) == names
    assert all(m.config is c for m, c in zip(attention_modules(model), configs, strict=True))
    assert not any(hasattr(module, "prefix_slot") for module in model.modules())


def test_an_error_in_a_call_leaves_no_prefix_behind() -> None:
    model = loud_encoder()
    attached(model, stored(model, BANKS["all"]))
    whole, calls = told(model), iter(["query", "answer"])

    def fail(*_: Any) -> None:
        if next(calls) == "answer":
            raise ValueError("of the model")

    handle = model.encoder.layer[1].register_forward_pre_hook(fail)
    with pytest.raises(ValueError, match="of the model"):
        told(model)
    handle.remove()
    assert all(module.prefix_slot.pair is None for module in attention_modules(model))
    assert torch.equal(told(model), whole)


def test_a_stored_pool_comes_back_bit_for_bit() -> None:
    model, again = loud_encoder(), loud_encoder()
    state = stored(model, BANKS["dual"], 2)
    attached(model, state)
    kept = AdaptedModel.of(model).state()
    assert kept.kind == "prompt_pool"
    assert kept.config == state.config
    assert all(torch.equal(kept.tensors[name], each) for name, each in state.tensors.items())
    attached(again, stored(again, BANKS["dual"], 2, seed=1)).load(kept.tensors)
    assert torch.equal(told(again), told(model))


def _attending(model: nn.Module, kind: str) -> nn.Module:
    model.config._attn_implementation = kind
    return model


def _without_attention() -> nn.Module:
    model = encoder()
    model.encoder.layer[1].attention.self = nn.Identity()
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gpt2, "pools of prompts are for encoders, a gpt2 model is none; use a method that is a set of"),
        (_without_attention, "the attention of a bert model takes no prefix; use a method that is a set of"),
        (
            lambda: _attending(encoder(), "flex_attention"),
            "attention of kind 'flex_attention' takes no prefix",
        ),
    ],
)
def test_models_that_take_no_pool_are_refused_and_left_alone(
    make: Callable[[], nn.Module], message: str
) -> None:
    model = make()
    names = list(model.state_dict())
    state = stored(loud_encoder(), BANKS["all"])
    with pytest.raises(UnsupportedError, match=message):
        attached(model, state)
    assert list(model.state_dict()) == names
    assert AdaptedModel.of(model).attachment is None


def test_what_does_not_fit_is_said_and_nothing_is_left() -> None:
    model, deeper = loud_encoder(), encoder(seed=1)
    state = stored(model, BANKS["attended"])
    wide = {name: each[..., :8] for name, each in state.tensors.items()}
    with pytest.raises(SpecError, match="stored pool does not fit BertModel: components of shape"):
        attached(deeper, AdapterState(state.kind, state.config, wide))
    assert not hasattr(deeper, "prompt_pool")
    pool = attached(model, state)
    with pytest.raises(SpecError, match="a stored pool does not fit: 1 tensors differ"):
        pool.load({name: each for name, each in state.tensors.items() if name != "0.keys"})
    with pytest.raises(UnsupportedError, match="has a pool in it already; one is all it takes"):
        type(pool)(model, state)


def test_calls_that_cannot_be_answered_are_refused() -> None:
    model = loud_encoder()
    attached(model, stored(model, BANKS["all"]))
    pairs = torch.ones(3, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(UnsupportedError, match="does not tell tokens from padding"):
        told(model, IDS, pairs)
    model.train()
    model.encoder.layer[0].gradient_checkpointing = True
    with pytest.raises(UnsupportedError, match="a pool of prompts does not work with gradient checkpointing"):
        told(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weighting": "nearest"}, "a bank cannot weigh by 'nearest'; give one of: attended, top, all"),
        ({"length": 0}, "length of a bank is 0; give 1 or more"),
        ({"layers": (3, 3)}, r"layers of a bank are \(3, 3\); give the first, and the one after the last"),
    ],
)
def test_banks_of_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        BankOptions(**options)


@pytest.mark.parametrize(
    ("layers", "depth", "found"),
    [
        ((0, 5), 12, (0, 5)),
        ((0, 5), 6, (0, 3)),
        ((0, 2), 6, (0, 1)),
        ((2, 5), 6, (1, 3)),
        ((2, 5), 2, (1, 2)),
    ],
)
def test_layers_keep_their_share_of_the_depth(
    layers: tuple[int, int], depth: int, found: tuple[int, int]
) -> None:
    assert [bank.layers for bank in BankOptions(layers=layers).placed(depth)] == [found]
    apart = BankOptions(layers=layers, apart=True).placed(depth)
    assert [bank.layers for bank in apart] == [(each, each + 1) for each in range(*found)]
    with pytest.raises(SpecError, match="have no like in a model of 1 layers"):
        BankOptions(layers=(2, 5)).placed(1)
