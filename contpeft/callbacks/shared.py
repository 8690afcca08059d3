"""Small things the callbacks share: patched methods, work for rank zero, finding each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any, TypeVar

import lightning.pytorch as L
from torch import Tensor

from contpeft.errors import TrainingError, UnsupportedError
from contpeft.store import AdapterStore

__all__ = ["Patches", "add_to_loss", "as_store", "on_rank_zero", "required"]

C = TypeVar("C", bound=L.Callback)
T = TypeVar("T")


class Patches:
    """Methods replaced on an instance, put back together."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    def replace(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        """Puts ``method`` in the place of ``owner.name``, on this instance only."""
        self._undo.append((owner, name, vars(owner).get(name)))
        setattr(owner, name, method)

    def undo(self) -> None:
        """Puts every method back, the instance's own or the class's."""
        while self._undo:
            owner, name, before = self._undo.pop()
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def add_to_loss(
    training_step: Callable[..., Any], extra: Callable[[Any, Any], Tensor | None]
) -> Callable[..., Any]:
    """Returns a ``training_step`` whose loss has ``extra(batch, outputs)`` added to it.

    The signature Lightning sees is the original's: it passes ``batch_idx`` only where it is asked for.
    """

    @functools.wraps(training_step)
    def step(batch: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = training_step(batch, *args, **kwargs)
        if outputs is None or (isinstance(outputs, Mapping) and "loss" not in outputs):
            return outputs  # Lightning skips the batch, or says what is missing
        added = extra(batch, outputs)
        if added is None:
            return outputs
        if isinstance(outputs, Mapping):
            return {**outputs, "loss": outputs["loss"] + added}
        return outputs + added

    return step


def on_rank_zero(trainer: L.Trainer, what: str, work: Callable[[], T]) -> T:
    """Returns on every rank what ``work`` returned on rank zero, the only one that calls it.

    Every rank must call this. An error on rank zero is raised everywhere, instead of a hang or a
    torn connection on the others.

    Args:
        trainer: the trainer.
        what: names the work in the error on other ranks.
        work: what to do; returns something small that can be sent to the other processes.

    Raises:
        TrainingError: on the other ranks, if rank zero failed.
    """
    if not trainer.is_global_zero:
        failure, result = trainer.strategy.broadcast(("", None), src=0)
        if failure:
            raise TrainingError(f"rank {trainer.global_rank}: {what} failed on rank 0 ({failure})")
        return result  # type: ignore[return-value]
    try:
        result = work()
    except BaseException as error:  # whatever it was, the other ranks are waiting to hear of it
        trainer.strategy.broadcast((f"{type(error).__name__}: {error}", None), src=0)
        raise
    trainer.strategy.broadcast(("", result), src=0)
    return result


def required(kind: type[C], trainer: L.Trainer, asker: L.Callback) -> C:
    """Returns the trainer's callback of that kind, for one that works on what it leaves behind.

    Raises:
        UnsupportedError: if none comes before ``asker``.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback is asker:
            break
        if isinstance(callback, kind):
            return callback
    raise UnsupportedError(
        f"{type(asker).__name__} needs a {kind.__name__} before it in the Trainer's callbacks; put one there"
    )


def as_store(store: AdapterStore | str | PathLike[str]) -> AdapterStore:
    """Returns the store, or the one in that folder; nothing is opened yet."""
    return store if isinstance(store, AdapterStore) else AdapterStore(store)
