"""Small things the callbacks share: patching an instance's method, and telling all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as L

from contpeft.errors import ContpeftError, TrainingError

__all__ = ["Patches", "rank_zero_first"]


class Patches:
    """Methods replaced on an instance, put back together."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str]] = []

    def replace(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        """Puts ``method`` in the place of ``owner.name``, on this instance only."""
        setattr(owner, name, method)
        self._undo.append((owner, name))

    def undo(self) -> None:
        """Puts every method back."""
        while self._undo:
            owner, name = self._undo.pop()
            delattr(owner, name)


@contextmanager
def rank_zero_first(trainer: L.Trainer, what: str) -> Iterator[bool]:
    """Runs the block's work on rank zero and lets every rank know how it ended.

    The block runs on every rank and gets True on rank zero. No rank leaves before rank zero is
    through, and an error there is raised everywhere, instead of a hang or a torn connection on
    the others.

    Args:
        trainer: the trainer.
        what: names the work in the error on other ranks.

    Raises:
        TrainingError: on the other ranks, if rank zero failed.
    """
    failure = "it was interrupted"
    try:
        yield trainer.is_global_zero
        failure = ""
    except (ContpeftError, OSError) as error:
        failure = str(error)
        raise
    finally:
        # In a finally clause: whatever ended the block, the other ranks are waiting for this.
        failure = trainer.strategy.broadcast(failure, src=0)
        if failure and not trainer.is_global_zero:
            raise TrainingError(f"rank {trainer.global_rank}: {what} failed on rank 0 ({failure})")
