"""Patched methods, work for rank zero, and callbacks that find each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from contpeft.callbacks.shared import Patches, add_to_loss, on_rank_zero
from contpeft.errors import StoreBusyError, TrainingError


class Greeter:
    def greet(self) -> str:
        return "class"


def test_patches_put_back_the_method_of_the_class() -> None:
    greeter, patches = Greeter(), Patches()
    patches.replace(greeter, "greet", lambda: "one")
    patches.replace(greeter, "greet", lambda: "two")
    assert greeter.greet() == "two"
    patches.undo()
    assert (greeter.greet(), vars(greeter)) == ("class", {})
    patches.undo()
    assert greeter.greet() == "class"


def test_patches_put_back_a_method_of_the_instance() -> None:
    greeter, patches = Greeter(), Patches()
    greeter.greet = own = lambda: "own"  # type: ignore[method-assign]
    patches.replace(greeter, "greet", lambda: "patched")
    patches.undo()
    assert greeter.greet is own


def test_an_added_loss_keeps_everything_else_of_the_outputs() -> None:
    def extra(batch: Any, outputs: Any) -> Any:
        return 10 * batch

    assert add_to_loss(lambda batch, batch_idx: batch + batch_idx, extra)(2, 1) == 23
    assert add_to_loss(lambda batch: {"loss": batch, "a": 1}, extra)(2) == {"loss": 22, "a": 1}
    assert add_to_loss(lambda batch: None, extra)(2) is None
    assert add_to_loss(lambda batch: {"a": 1}, extra)(2) == {"a": 1}


class Ranks:
    """Stands for the trainers of several processes: a broadcast waits for all of them."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=10)
        self._sent: Any = None

    def trainer(self, rank: int) -> Any:
        def broadcast(value: Any, src: int) -> Any:
            if rank == src:
                self._sent = value
            self._barrier.wait()
            sent = self._sent
            self._barrier.wait()
            return sent

        strategy = type("Strategy", (), {"broadcast": staticmethod(broadcast)})
        return type("Trainer", (), {"strategy": strategy, "global_rank": rank, "is_global_zero": rank == 0})

    def run(self, work: Callable[[], Any], count: int) -> list[Any]:
        def one(rank: int) -> Any:
            try:
                return on_rank_zero(self.trainer(rank), "registering", work)
            except BaseException as error:
                return error

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))


def test_every_rank_gets_what_rank_zero_made() -> None:
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        return "billing@1"

    assert Ranks(3).run(work, 3) == ["billing@1"] * 3
    assert calls == [1]


@pytest.mark.parametrize(
    "error", [StoreBusyError("full"), OSError("full"), RuntimeError("full"), KeyboardInterrupt()]
)
def test_an_error_on_rank_zero_reaches_every_rank(error: BaseException) -> None:
    def work() -> None:
        raise error

    first, *others = Ranks(3).run(work, 3)
    assert first is error
    reason = f"{type(error).__name__}: {error}"
    for rank, other in enumerate(others, start=1):
        assert isinstance(other, TrainingError)
        assert str(other) == f"rank {rank}: registering failed on rank 0 ({reason})"
