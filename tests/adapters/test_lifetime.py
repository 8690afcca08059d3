"""The hundredth task costs what the first did, in time and in what is kept alive."""

from __future__ import annotations

import gc
import statistics
import time
import weakref
from collections.abc import Callable

import pytest
from adapters_tiny import Module, bert, look, trained, version
from torch import nn

from contpeft.adapters import AdaptedModel
from contpeft.spec import AdapterSpec, Base, Single


def seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def parameters() -> int:
    """Returns how many parameters are alive in this process."""
    return sum(type(each) is nn.Parameter for each in gc.get_objects())


def test_attaching_again_and_again_costs_the_same_and_leaves_nothing() -> None:
    module = Module()
    adapted = AdaptedModel.of(module)

    def once() -> None:
        adapted.attach(AdapterSpec("lora", targets="all-linear"))
        adapted.detach()

    once()
    looks = look(module)
    for _ in range(5):  # the machine may be busy with something else
        took = [seconds(once) for _ in range(20)]
        assert look(module) == looks
        if statistics.median(took[-5:]) <= 1.5 * statistics.median(took[:5]):
            return
    pytest.fail(f"attaching becomes slower: {took}")


def test_answering_again_and_again_leaves_nothing() -> None:
    adapted = AdaptedModel.of(Module())
    entry, state = version(trained(adapted), adapted.base), adapted.state()
    looks = look(adapted.module)
    gc.collect()
    before = parameters()
    for _ in range(10):
        with adapted.applied(Single("colours@1"), lambda _ref: (entry, state)):
            pass
    assert look(adapted.module) == looks
    assert len(adapted.residents) == 1
    adapted.residents.clear()
    gc.collect()
    assert parameters() == before


@pytest.mark.parametrize("make", [Module, bert])
@pytest.mark.parametrize("detach", [True, False])
def test_a_module_that_is_no_longer_used_is_freed(make: Callable[[], nn.Module], detach: bool) -> None:
    module = make()
    adapted = AdaptedModel.of(module)
    trained(adapted)
    with adapted.applied(Base()):
        pass
    if detach:
        adapted.detach()
    alive = [weakref.ref(module), weakref.ref(adapted.model), weakref.ref(next(adapted.model.parameters()))]
    del module, adapted
    gc.collect()
    assert [each() for each in alive] == [None, None, None]
