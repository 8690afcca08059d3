"""Drawing rows by a hash of seed and row id.

What is drawn depends on the seed and on which rows there are, never on their order in a file nor on
the version of a random generator. Draws are nested: the 20 rows of a class are among its 100.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

from contpeft.errors import ConfigError
from contpeft.experiments.examples import Examples

__all__ = ["draw", "hold_out", "shuffled"]


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    """Returns ``names`` in an order that depends on ``seed`` and on which names there are."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())


def draw(
    examples: Examples, strata: Sequence[Hashable], count: int | None, *, seed: int, option: str
) -> Examples:
    """Returns ``count`` rows of every stratum, sorted by id.

    Args:
        examples: the rows to draw from.
        strata: what each row is counted under: its label, or its task and label.
        count: rows per stratum; None takes them all.
        seed: another seed draws other rows.
        option: the name of the option that holds ``count``, for messages.

    Raises:
        ConfigError: if ``count`` is below 1, or a stratum has fewer rows.
    """
    if count is not None and count < 1:
        raise ConfigError(f"{option} is {count}; it must be at least 1, or None for all rows")
    chosen: list[str] = []
    for stratum, ids in _ids_by_stratum(examples, strata).items():
        if count is not None and len(ids) < count:
            raise ConfigError(
                f"{_spell(stratum)} has {len(ids)} rows, {option} asks for {count}; "
                "lower it, or set it to None to take all rows"
            )
        chosen += shuffled(ids, seed)[:count]
    return _by_id(examples, chosen)


def hold_out(
    examples: Examples,
    strata: Sequence[Hashable],
    fraction: float,
    *,
    seed: int,
    option: str = "test_fraction",
) -> tuple[Examples, Examples]:
    """Splits off ``fraction`` of every stratum for testing; at least one row stays on each side.

    Args:
        examples: the rows to split.
        strata: what each row is counted under: its label, or its task and label.
        fraction: share of the test rows, between 0 and 1.
        seed: another seed holds out other rows.
        option: the name of the option that holds ``fraction``, for messages.

    Returns:
        the rows to train on and the rows to test on, each sorted by id.

    Raises:
        ConfigError: if ``fraction`` is not between 0 and 1, or a stratum has a single row.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"{option} is {fraction}; it must lie between 0 and 1, both excluded")
    train: list[str] = []
    test: list[str] = []
    for stratum, ids in _ids_by_stratum(examples, strata).items():
        if len(ids) == 1:
            raise ConfigError(f"{_spell(stratum)} has a single row; a split for testing needs at least 2")
        cut = min(max(round(fraction * len(ids)), 1), len(ids) - 1)
        drawn = shuffled(ids, seed)
        test += drawn[:cut]
        train += drawn[cut:]
    return _by_id(examples, train), _by_id(examples, test)


def _ids_by_stratum(examples: Examples, strata: Sequence[Hashable]) -> dict[Hashable, list[str]]:
    """Returns the ids under each stratum; strata by name, so that the first problem is always the same."""
    groups: dict[Hashable, list[str]] = {}
    for row_id, stratum in zip(examples.ids, strata, strict=True):
        groups.setdefault(stratum, []).append(row_id)
    return dict(sorted(groups.items(), key=lambda item: _spell(item[0])))


def _by_id(examples: Examples, ids: Sequence[str]) -> Examples:
    position = {row_id: index for index, row_id in enumerate(examples.ids)}
    return examples.select([position[row_id] for row_id in sorted(ids)])


def _spell(stratum: Hashable) -> str:
    if isinstance(stratum, tuple):
        task, label = stratum
        return f"class {label!r} of task {task!r}"
    return f"class {stratum!r}"
