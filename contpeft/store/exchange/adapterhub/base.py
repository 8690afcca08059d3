"""The base that an adapter of AdapterHub's is for: what can be told of it, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contpeft.errors import BaseMismatchError, IntegrityError, UsageError
from contpeft.spec import AdapterState, BaseModel
from contpeft.store.exchange.adapterhub.files import Found
from contpeft.store.exchange.importing import check_fits, check_same
from contpeft.store.exchange.provenance import Provenance

if TYPE_CHECKING:
    from torch import nn

    from contpeft.adapters import AdaptedModel
    from contpeft.adapters.adapterhub import Told

__all__ = ["Where", "find_base"]


@dataclass(frozen=True)
class Where:
    """The base of what comes in.

    Attributes:
        base: its identity.
        prefix: what the names of its modules begin with.
        layers: how many it has; None when no model is at hand.
        adapted: the model, if it is at hand.
    """

    base: BaseModel
    prefix: str
    layers: int | None = None
    adapted: AdaptedModel | None = None

    def check_fits(self, state: AdapterState, what: Path) -> None:
        """Puts an adapter into the model once, if it is at hand.

        Raises:
            BaseMismatchError: if it does not fit.
        """
        if self.adapted is not None:
            check_fits(what, state, self.adapted)


def find_base(
    found: Sequence[Found],
    given: BaseModel | nn.Module | Path | None,
    provenance: Provenance | None,
    known_prefix: Callable[[BaseModel], str | None],
) -> Where:
    """Returns the base of adapters that are all of the same one.

    Args:
        found: the adapters.
        given: the base, as far as the caller knows it.
        provenance: what contpeft wrote beside them, if it did.
        known_prefix: what the names of modules begin with in what is stored on a base; None if nothing is.

    Raises:
        UsageError: if nothing says which base it is.
        BaseMismatchError: if it is of another kind or size, or not the one they were exported from.
    """
    first = found[0]
    for each in found[1:]:
        if (each.told.model_type, each.told.hidden_size) != (first.told.model_type, first.told.hidden_size):
            raise BaseMismatchError(f"{each.path} is of another base than {first.path}")
    told_base = provenance.base if provenance else None
    base = told_base if given is None else given
    if base is None:
        raise UsageError(
            f"{first.path} names its base by a path alone ({first.told.file.get('model_name')!r}); give the "
            "base: a model folder (--base), or that of a stored version (--like)"
        )
    if isinstance(base, BaseModel):
        check_same(first.path, provenance, base)
        prefix = known_prefix(base)
        return Where(base, first.prefix if prefix is None else prefix)
    adapted = _loaded(base, first.told, told_base) if isinstance(base, Path) else _adapted(base)
    check_same(first.path, provenance, adapted.base)
    return _at_hand(adapted, first)


def _at_hand(adapted: AdaptedModel, found: Found) -> Where:
    config: Any = adapted.model.config
    told = found.told
    for key, wanted in (("model_type", told.model_type), ("hidden_size", told.hidden_size)):
        if getattr(config, key, None) != wanted:
            raise BaseMismatchError(
                f"{found.path} is for a base of {key} {wanted!r}, the one given has "
                f"{getattr(config, key, None)!r}; give the base it was trained on"
            )
    inner = hasattr(adapted.model, told.family.prefix.removesuffix("."))
    return Where(adapted.base, told.family.prefix if inner else "", int(config.num_hidden_layers), adapted)


def _adapted(module: nn.Module) -> AdaptedModel:
    from contpeft.adapters import AdaptedModel

    return AdaptedModel.of(module)


def _loaded(folder: Path, told: Told, wanted: BaseModel | None) -> AdaptedModel:
    """Returns the model of a folder: the plain one, or the one with a head if that is the base wanted."""
    from contpeft.adapters import load_base

    made: list[AdaptedModel] = []
    refusals: list[BaseMismatchError | IntegrityError] = []
    for prefix in ("", told.family.prefix):
        try:
            made.append(_adapted(load_base(folder, [f"{prefix}encoder.layer.0"])))
        except (BaseMismatchError, IntegrityError) as error:
            refusals.append(error)
            continue
        if wanted is None or made[-1].base.fingerprint == wanted.fingerprint:
            return made[-1]
    if not made:
        raise refusals[0]
    return made[0]
