"""Names for what answers, before it is stored too."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch

from contpeft.adapters import tensor_items
from contpeft.digest import json_digest, tensors_digest
from contpeft.spec import AdapterState, Base, BaseModel, Single, Version
from contpeft.spec.identity import composition_key, content_key, key_of
from contpeft.strategies.about import LATER
from contpeft.strategies.context import Context
from contpeft.strategies.recipe import Recipe

__all__ = ["composition_key", "fit_key", "recipe_digest", "state_key"]


def state_key(state: AdapterState | None, base: BaseModel, reads: str = "") -> str:
    """Returns the key of an adapter that is not stored: the one it would have as a version.

    Args:
        state: the adapter and head; None for the bare base.
        base: the model it answers on.
        reads: as in :func:`~contpeft.spec.identity.composition_key`.
    """
    if state is None:
        return key_of(Base(), base, str, reads)
    fingerprint = tensors_digest(tensor_items(dict(state.tensors)))
    content = content_key(state.kind, state.config, fingerprint, state.head)
    return key_of(Single("state"), base, lambda _ref: content, reads)


def fit_key(context: Context, recipe: Recipe) -> str | None:
    """Returns the digest of what a fit that is about to start depends on, beside the trainer's settings.

    Two fits with equal keys and settings end with equal weights, whatever is done with these afterwards.
    What a penalty or a projection reads of earlier tasks is not followed, nor what a method does around every
    step (AdaLoRA's pruning), so recipes and methods with such have no key.

    Args:
        context: the task at hand, its adapter and head in place.
        recipe: how it is learnt.
    """
    if recipe.penalty is not None or recipe.projection is not None or context.data is None:
        return None
    adapted = context.adapted
    if adapted.attachment is not None and not adapted.attachment.dynamics.idle:
        return None
    made_from = [[each.role, _content(context.store.show(each.ref))] for each in context.parents]
    drawn = tensors_digest(tensor_items({"torch": torch.get_rng_state()}))
    start = state_key(context.state(recipe.head.classes(context)), adapted.base)
    trained = sorted(name for name, p in adapted.module.named_parameters() if p.requires_grad)
    how = [_plain(recipe.init), _plain(recipe.head), context.step, context.seed]
    return json_digest([start, made_from, trained, context.data.digest, how, drawn])


def _content(version: Version) -> str:
    return content_key(version.kind, version.config, version.fingerprint, version.head)


def recipe_digest(recipe: Recipe) -> str:
    """Returns the digest of a recipe's parts and their values; what is told of it does not count.

    A value that parts have got later (:data:`LATER`) counts where it is not what they did before, so that
    runs begun before go on.
    """
    return json_digest(_plain(recipe))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        told = {
            each.name: _plain(getattr(value, each.name))
            for each in fields(value)
            if each.compare and not (LATER in each.metadata and getattr(value, each.name) == each.default)
        }
        return {"part": type(value).__name__, **told}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, frozenset | set):
        return sorted(map(str, value))
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
