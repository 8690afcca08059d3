"""Init: a pool of prompts, which each task trains on or adds to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from contpeft.adapters.pools import BankOptions, fresh_pool, grown_pool
from contpeft.errors import SpecError
from contpeft.spec import AdapterState, Parent, Version
from contpeft.strategies.about import COMPONENTS, About
from contpeft.strategies.context import Context
from contpeft.strategies.init.from_last import FromLast

__all__ = ["Pooled"]


@dataclass(frozen=True)
class Pooled(FromLast):
    """A pool of prefixes inside an encoder, one name, a new version per task.

    What is attached is the pool, whatever the experiment's adapter is. Banks that grow get components of the
    task's own, and those of earlier tasks are frozen. A prefix changes what the model computes from its start
    on, so attaching one is no no-op; without it the model is the base.

    Attributes:
        banks: what the pool is made of.
    """

    about: ClassVar[About] = About(growth=COMPONENTS)

    banks: tuple[BankOptions, ...] = (BankOptions(),)

    def keeps(self) -> str:
        """Returns what it keeps for every task; nothing where all tasks train the same components."""
        return COMPONENTS if any(bank.grows for bank in self.banks) else ""

    def start(self, context: Context) -> tuple[Parent, ...]:
        """Attaches the last version, grown; a fresh pool at the first task.

        Raises:
            SpecError: if the last version is another pool, or none.
        """
        drawn = torch.Generator().manual_seed(context.seed)
        fresh = fresh_pool(context.adapted.model, self.banks, drawn)
        if context.previous is None:
            context.adapted.attach_state(fresh)
            return ()
        version, state = context.previous
        _check_same(version, fresh)
        context.adapted.check_base(version)
        context.adapted.attach_state(grown_pool(state, drawn))
        return (Parent(version.ref, "continued"),)


def _check_same(version: Version, fresh: AdapterState) -> None:
    if version.kind != fresh.kind or version.config["banks"] != fresh.config["banks"]:
        raise SpecError(
            f"{version.ref} is not the pool that this recipe makes; keep one recipe under one name"
        )
