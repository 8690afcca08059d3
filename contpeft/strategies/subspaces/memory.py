"""What is protected in the inputs of each adapted layer, remembered from task to task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from contpeft.adapters import InputMoments, input_moments
from contpeft.errors import UnsupportedError
from contpeft.spec import AdapterState, Version
from contpeft.strategies.context import Context
from contpeft.strategies.subspaces.subspace import Subspace

__all__ = ["PROTECTED", "Protected", "check_room", "read_moments"]

PROTECTED: Final = "protected-inputs"
_PROTECTED, _FREE = "protected", "free"  # what the columns of a stored basis span


@dataclass(frozen=True)
class Protected:
    """A subspace for each layer that reads something of its own.

    Attributes:
        spaces: by the first of the layers that read the same.
        readers: for each layer the one under which its subspace is.
    """

    spaces: Mapping[str, Subspace]
    readers: Mapping[str, str]

    @classmethod
    def none_yet(cls, moments: InputMoments) -> Protected:
        """Returns empty subspaces for the layers that moments were taken of."""
        spaces = {name: Subspace.nothing(len(moment)) for name, moment in moments.moments.items()}
        return cls(spaces, moments.readers)

    @classmethod
    def recalled(cls, context: Context, memory: str = PROTECTED) -> Protected | None:
        """Returns what the way remembered last under the name of a memory; None at its first task."""
        state = context.recall(memory)
        return None if state is None else context.once(memory, lambda: cls._from(state))

    def of(self, module: str) -> Subspace:
        """Returns the subspace of one layer.

        Raises:
            UnsupportedError: if earlier tasks did not adapt it.
        """
        if module not in self.readers:
            raise UnsupportedError(
                f"what earlier tasks read at {module!r} is not known, they did not adapt it; keep one spec "
                "for all tasks of a way"
            )
        return self.spaces[self.readers[module]]

    def remember(self, context: Context, told: Mapping[str, Any], memory: str = PROTECTED) -> Version:
        """Registers it as the way's next memory.

        Args:
            context: the task at hand.
            told: what else ``store show`` is to tell.
            memory: its name.
        """
        tensors = {
            f"{name}.{_FREE if space.complement else _PROTECTED}": space.kept.float()
            for name, space in self.spaces.items()
        }
        ranks = {
            f"{_PROTECTED}.{name}": f"{space.rank} of {space.width}" for name, space in self.spaces.items()
        }
        shared = {name: leader for name, leader in self.readers.items() if name != leader}
        return context.remember(memory, tensors, {**told, "shared": shared, **ranks})

    @classmethod
    def _from(cls, state: AdapterState) -> Protected:
        spaces = {}
        for key, kept in state.adapter_tensors().items():
            name, _, what = key.rpartition(".")
            # Single precision was enough to store, not to add to for ever.
            spaces[name] = Subspace(torch.linalg.qr(kept.double()).Q, complement=what == _FREE)
        return cls(spaces, {**{name: name for name in spaces}, **state.config["shared"]})


def read_moments(context: Context, part: str) -> InputMoments:
    """Returns the moments of what every adapted layer reads on the task's data, the model as it stands.

    Args:
        context: the task at hand.
        part: names who asks in an error.

    Raises:
        UnsupportedError: if there are no examples, or the adapter is not LoRA of linear layers.
    """
    data, modules = context.training_data(part), context.factors(part)
    run = context.features.current
    return input_moments(context.adapted.model, modules, lambda: run(data.inputs))


def check_room(space: Subspace, rank: int, module: str) -> None:
    """Checks that an update of a rank has room beside what is protected.

    Raises:
        UnsupportedError: if not.
    """
    if space.free < rank:
        raise UnsupportedError(
            f"an update of rank {rank} has no room at {module!r}: {space.rank} of the {space.width} "
            f"directions of its inputs are protected, {space.free} are free; protect a smaller share, "
            "cap it, or give a lower r"
        )
