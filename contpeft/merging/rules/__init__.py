"""Merging rules, one idea a file, and the one table of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from contpeft.errors import NotFoundError, SpecError, suggest
from contpeft.merging.rules.base import Rule, RuleSpec
from contpeft.merging.rules.dare import Dare, DareTies
from contpeft.merging.rules.della import Della
from contpeft.merging.rules.iso import IsoC, IsoCts
from contpeft.merging.rules.lego import Lego
from contpeft.merging.rules.linear import Average, Sum, TaskArithmetic
from contpeft.merging.rules.peft import PeftLinear, PeftTies
from contpeft.merging.rules.projection import NullSpace, Opcm
from contpeft.merging.rules.pruning import Breadcrumbs, MagMax, Prune
from contpeft.merging.rules.sphere import Karcher, Slerp
from contpeft.merging.rules.statistics import Fisher, RegMean
from contpeft.merging.rules.ties import Knots, Ties
from contpeft.merging.rules.tsv import Tsv
from contpeft.merging.rules.wudi import Wudi

__all__ = ["RULES", "Rule", "RuleSpec", "make_rule"]

_ALL: Final[tuple[type[Rule], ...]] = (
    Sum,
    Average,
    TaskArithmetic,
    Slerp,
    Karcher,
    Ties,
    Dare,
    DareTies,
    Della,
    Breadcrumbs,
    Prune,
    MagMax,
    Knots,
    Tsv,
    IsoC,
    IsoCts,
    Wudi,
    NullSpace,
    Opcm,
    RegMean,
    Fisher,
    Lego,
    PeftLinear,
    PeftTies,
)
RULES: Final[Mapping[str, type[Rule]]] = {rule.spec.name: rule for rule in _ALL}


def make_rule(name: str, parameters: Mapping[str, Any] | None = None) -> Rule:
    """Returns a rule.

    Args:
        name: see :data:`RULES`.
        parameters: those that differ from the rule's own; texts are converted.

    Raises:
        NotFoundError: if there is no rule of that name.
        SpecError: if it has no such parameter, or refuses a value.
    """
    if name not in RULES:
        raise NotFoundError(f"no merging rule {name!r}{suggest(name, RULES, limit=40)}")
    try:
        return RULES[name](**(parameters or {}))
    except ValidationError as error:
        raise SpecError(_explain(name, error)) from error


def _explain(name: str, error: ValidationError) -> str:
    first = error.errors()[0]
    known = [key for key in RULES[name].__dataclass_fields__ if RULES[name].__dataclass_fields__[key].init]  # type: ignore[attr-defined]
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "unexpected_keyword_argument":
        return f"rule {name!r} has no parameter {key!r}{suggest(key, known)}"
    what = f"parameter {key}={first['input']!r}" if key else "the parameters"
    return f"rule {name!r} refuses {what}: {first['msg'].removeprefix('Value error, ')}"
