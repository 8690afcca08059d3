"""Letting stored versions answer: exact while they do, and nothing left afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from adapters_tiny import CLASSES, Module, bert, logits, look, same, step, trained, values, version
from torch import Tensor, nn

from contpeft.adapters import AdaptedModel, ClassStatistics, CosineHead, StatisticsHead
from contpeft.errors import BaseMismatchError, SpecError
from contpeft.spec import AdapterSpec, AdapterState, Base, BaseModel, Single, Version

# Ten ways to train an adapter, each leaving other weights behind.
OTHERS = [
    *("ia3", "loha", "lokr", "ln_tuning", "hra", "randlora"),
    *(AdapterSpec("vera", r=4), AdapterSpec("oft", oft_block_size=4), AdapterSpec("adalora", total_step=9)),
    AdapterSpec("lora", r=3, targets="all-linear", use_dora=True),
]

Stored = dict[str, tuple[Version, AdapterState]]


class Store:
    """States by reference, as a store gives them."""

    def __init__(self) -> None:
        self.kept: Stored = {}

    def keep(self, ref: str, state: AdapterState, base: BaseModel) -> Single:
        self.kept[ref] = version(state, base, ref), state
        return Single(ref)

    def __call__(self, ref: str) -> tuple[Version, AdapterState]:
        return self.kept[ref]


@pytest.fixture
def store() -> Store:
    return Store()


def fresh(method: str | AdapterSpec, store: Store, ref: str = "guest@1") -> tuple[Single, Tensor]:
    """Returns a version trained on an equal module, and what that module answered."""
    adapted = AdaptedModel.of(Module())
    spec = method if isinstance(method, AdapterSpec) else AdapterSpec(method)
    single = store.keep(ref, trained(adapted, spec, classes=CLASSES), adapted.base)
    return single, logits(adapted.module)


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
def test_a_version_answers_as_when_it_was_trained(
    store: Store, mode: Callable[[], AbstractContextManager[object]]
) -> None:
    single, answered = fresh(AdapterSpec("lora", dropout=0.5), store)
    module = Module()
    adapted = AdaptedModel.of(module)
    before, looks, plain = values(module), look(module), logits(module)
    with mode(), adapted.applied(single, store):
        assert adapted.active
        assert torch.equal(logits(module), answered)
        assert not any(p.requires_grad for p in adapted.attachment.parameters())
    assert not adapted.active
    assert look(module) == looks
    assert same(values(module), before)
    assert torch.equal(logits(module), plain)
    trained(adapted)  # nothing of inference mode is left


def test_a_head_inside_the_transformers_model_is_exchanged(store: Store) -> None:
    adapted = AdaptedModel.of(bert())
    single = store.keep("guest@1", trained(adapted), adapted.base)
    answered = logits(adapted.module)
    other = AdaptedModel.of(bert())
    nn.init.zeros_(other.module.classifier.weight)
    looks = look(other.module)
    with other.applied(single, store):
        assert torch.equal(logits(other.module), answered)
    assert look(other.module) == looks
    assert other.module.classifier.weight.abs().max() == 0


def test_the_bare_base_answers_with_the_head_that_is_there(store: Store) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    trained(adapted)
    expected = Module()
    expected.head.load_state_dict(module.head.state_dict())
    own = logits(module)
    with adapted.applied(Base()):
        assert not adapted.active
        assert torch.equal(logits(module), logits(expected))
    assert torch.equal(logits(module), own)


def test_class_statistics_answer_with_the_bare_base(store: Store) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    statistics = ClassStatistics()
    features = torch.randn(30, 16)
    statistics.update(features, CLASSES * 10, 0)
    tensors = {f"head.{name}": tensor for name, tensor in statistics.tensors().items()}
    state = AdapterState("statistics", {}, tensors, statistics.spec("lda"))
    single = store.keep("lda@1", state, adapted.base)
    trained(adapted)
    with adapted.applied(single, store):
        assert not adapted.active
        assert isinstance(module.head, StatisticsHead)
        assert torch.equal(
            module.head(features), StatisticsHead(statistics.spec("lda"), statistics.tensors())(features)
        )
    assert type(module.head) is nn.Linear


def raising(*_: object) -> object:
    raise KeyError("no such version")


def failing(store: Store) -> Iterator[tuple[Single, Callable[..., object], type[Exception], str]]:
    adapted = AdaptedModel.of(Module())
    state = trained(adapted)
    name, tensor = next(iter(state.adapter_tensors().items()))
    broken = {
        "shapes@1": ({**state.tensors, name: tensor.T.contiguous()}, "has shape"),
        "foreign@1": ({**state.tensors, "base_model.model.pooler.weight": tensor}, "1 foreign"),
        "head@1": ({**state.tensors, "head.weight": torch.ones(4, 16)}, "the stored head .* does not fit"),
    }
    for ref, (tensors, message) in broken.items():
        wrong = AdapterState(state.kind, state.config, tensors, state.head)
        yield store.keep(ref, wrong, adapted.base), store, SpecError, message
    elsewhere = store.keep("elsewhere@1", state, AdaptedModel.of(Module(seed=1)).base)
    yield elsewhere, store, BaseMismatchError, "elsewhere@1 was trained on"
    yield elsewhere, raising, KeyError, "no such version"
    yield elsewhere, None, SpecError, "applying elsewhere@1 needs a store to load it from"


def test_leaving_by_any_way_restores_the_module_and_its_training(store: Store) -> None:
    """The adapter in training stays the same parameters, held by the same optimizer, and trains on."""

    def run(disturbed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        module = Module()
        adapted = AdaptedModel.of(module)
        adapted.attach(AdapterSpec("lora"))
        trainable = adapted.train_only()
        optimizer = torch.optim.Adam(trainable, lr=0.1)
        step(module, optimizer)
        if disturbed:
            guest, answered = fresh("loha", store)
            looks, before = look(module), values(module)

            def untouched() -> bool:
                return look(module) == looks and same(values(module), before)

            with adapted.applied(guest, store):
                assert torch.equal(logits(module), answered)
            assert untouched()
            with pytest.raises(ZeroDivisionError), adapted.applied(guest, store):
                raise ZeroDivisionError
            assert untouched()
            for single, load, error, message in failing(store):
                with pytest.raises(error, match=message), adapted.applied(single, load):
                    pytest.fail("it must not come to this")
                assert untouched()
            with torch.inference_mode(), adapted.applied(guest, store):
                assert torch.equal(logits(module), answered)
            assert untouched()
        for _ in range(3):
            step(module, optimizer)
        assert [id(p) for p in adapted.train_only()] == [id(p) for p in trainable]
        return [p.detach().clone() for p in trainable]

    for plain, disturbed in zip(run(False), run(True), strict=True):
        assert torch.equal(plain, disturbed)


def test_blocks_may_be_nested(store: Store) -> None:
    first, first_answer = fresh("lora", store, "first@1")
    second, second_answer = fresh("ia3", store, "second@1")
    module = Module()
    adapted = AdaptedModel.of(module)
    plain = logits(module)
    base = adapted.base
    with adapted.applied(first, store):
        assert adapted.base == base
        with adapted.applied(second, store):
            assert torch.equal(logits(module), second_answer)
        assert torch.equal(logits(module), first_answer)
        with adapted.applied(Base()):
            assert not adapted.active
        assert torch.equal(logits(module), first_answer)
    assert torch.equal(logits(module), plain)


def test_the_base_is_told_from_a_guest_that_answers(store: Store) -> None:
    single, _ = fresh("lora", store)
    adapted = AdaptedModel.of(Module())
    with adapted.applied(single, store):
        assert adapted.base == AdaptedModel.of(Module()).base
        adapted.check_base(store.kept["guest@1"][0])
        with pytest.raises(SpecError, match="has an adapter attached already"):
            adapted.attach(AdapterSpec("lora"))


def test_answering_draws_no_random_numbers(store: Store) -> None:
    single, _ = fresh("lora", store)
    adapted = AdaptedModel.of(Module())
    before = torch.get_rng_state()
    with adapted.applied(single, store):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_a_task_answers_bit_for_bit_after_ten_others(store: Store) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    base = adapted.base
    adapted.set_head(CosineHead(CLASSES, torch.randn(3, 16)))
    single = store.keep("first@1", trained(adapted), base)
    answered = logits(module)
    for position, other in enumerate(OTHERS):
        adapted.detach()
        adapted.reset_head()
        spec = other if isinstance(other, AdapterSpec) else AdapterSpec(other)
        store.keep(f"other{position}@1", trained(adapted, spec), adapted.verify_base())
        with adapted.applied(single, store):
            assert torch.equal(logits(module), answered)
    assert adapted.verify_base() == base
    assert len(store.kept) == 11
