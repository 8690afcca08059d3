"""The second stage of AdapterFusion under Lightning."""

from __future__ import annotations

from collections.abc import Sequence

from contpeft.adapters.fusion import FusionOptions
from contpeft.callbacks.continual import ContinualAdapter
from contpeft.spec import Task
from contpeft.store import AdapterStore
from contpeft.strategies import Recipe
from contpeft.strategies.fusion import FuseOver
from contpeft.strategies.penalty import NearIdentityValues

__all__ = ["FusionStage"]


class FusionStage(ContinualAdapter):
    """Trains attention over adapters that are in the store, and registers it as a version of its own.

    The first stage is :class:`ContinualAdapter`, once per task. In this one the base and all adapters are
    frozen; the fusion layers and the module's head learn, and the regulariser is part of the loss that is
    logged. The version is called ``<task>-fusion``, its parents are what it is over; loaded alone it brings
    them along.

    Example::

        trainer = L.Trainer(callbacks=[FusionStage(store, "support", over=["billing@3", "refunds"])])

    Args:
        store: where the adapters are.
        task: what the fusion is for, or its name.
        over: the versions to fuse, two at least.
        options: what the fusion layers are made of.
        module: attribute of the Lightning module that is the transformers model.
        head: attribute that is the head.
    """

    def __init__(
        self,
        store: AdapterStore,
        task: Task | str,
        *,
        over: Sequence[str],
        options: FusionOptions | None = None,
        module: str | None = None,
        head: str | None = None,
    ) -> None:
        fuse = FuseOver(tuple(store.resolve(ref) for ref in over), options or FusionOptions())
        recipe = Recipe(init=fuse, penalty=NearIdentityValues())
        super().__init__(store, task, recipe=recipe, module=module, head=head)
