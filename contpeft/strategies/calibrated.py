"""Temperatures that were measured for what answers, and where they count.

Guo et al. (2017), On calibration of modern neural networks, section 4.2: dividing the scores of a head by one
temperature changes no answer of its own. It does where probabilities of several heads are put together.
"""

from __future__ import annotations

from typing import Final

from contpeft.spec import Arrow, BaseModel, Composition, Concat, Mix, Parallel, Part, Surest
from contpeft.spec.identity import calibration_key
from contpeft.store import AdapterStore

__all__ = ["TEMPERATURE", "temperature_of", "temperatures"]

TEMPERATURE: Final = "temperature"
"""The metric under which temperatures are kept."""


def temperature_of(part: Part | Concat, base: BaseModel, store: AdapterStore) -> float | None:
    """Returns what the scores of a part are to be divided by: its newest temperature; None if it has none.

    Args:
        part: what answers; each composition has its own temperature, a merge or sum not that of its parents.
        base: the model it answers on.
        store: where its versions and their scores are.
    """
    measured = store.inspect.measured(calibration_key(part, base, store.show))
    return next((score.value for score in measured if score.metric == TEMPERATURE), None)


def temperatures(composition: Composition, base: BaseModel, store: AdapterStore) -> str:
    """Returns what names the temperatures that a composition answers with; empty if there are none.

    It is to be part of the key that its scores are cached under.
    """
    if not isinstance(composition, Parallel | Surest | Mix | Arrow):
        return ""
    told = [temperature_of(choice, base, store) for choice in composition.choices]
    return "" if all(each is None for each in told) else f" at temperatures {told}"
