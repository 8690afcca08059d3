"""Consolidate: the factors of LoRA adapters are merged one by one, over time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from contpeft.merging.layout import find_factors
from contpeft.spec import AdapterState, Parent, Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.merged import MERGED, register, running_merge

__all__ = ["MergeFactors"]


@dataclass(frozen=True)
class MergeFactors:
    """``A`` is the last task's, ``B`` follows it by ``1 / sqrt(t)`` of the way (SLAO).

    ``A_m = A_t`` and ``B_m += (B_t - B_m) / sqrt(t)``, from arXiv 2512.23017 ("SLAO"). Training goes on from
    the last adapter, not from the merge. What is kept does not grow with ``t``, and the rank stays that of
    one adapter. It is no sum of updates, and depends on the factors: it belongs to a start that keeps them
    alike (:class:`Orthonormal`).
    """

    about: ClassVar[About] = About(
        paper="SLAO 2025, arXiv 2512.23017", growth="nothing", needs=frozenset({"lora"})
    )

    def check(self, context: Context) -> None:
        """Checks that the adapter has factors, of linear layers or others.

        Raises:
            UnsupportedError: if not.
        """
        attached = context.adapted.attachment
        if attached is not None:
            find_factors(attached.kind, attached.config_json(), attached.tensors())

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Registers the merge, from the second task on."""
        if trained is None or not context.adapters:
            return ()
        before = running_merge(context) or context.adapters[-1]
        count = len(context.adapters) + 1
        step = count**-0.5
        state = _merged(context.store.load(before.ref), context.store.load(trained.ref), step)
        inputs = [{"fingerprint": each.fingerprint, "ref": each.ref} for each in (before, trained)]
        told = {"operation": "merge-factors", "inputs": inputs, "step": step, "seen": count}
        parents = (Parent(before.ref, "fused"), Parent(trained.ref, "fused"))
        return (register(context, MERGED, state, parents, told),)


def _merged(before: AdapterState, trained: AdapterState, step: float) -> AdapterState:
    """Returns the trained adapter with every ``B`` that part of the way from the merge's to its own."""
    old, new = before.adapter_tensors(), trained.adapter_tensors()
    ups = {each.b for each in find_factors(trained.kind, trained.config, new).values()}
    tensors = {name: old[name].lerp(t, step) if name in ups else t for name, t in new.items()}
    return AdapterState(trained.kind, trained.config, tensors)
