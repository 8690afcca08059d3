"""Every error contpeft raises on purpose.

::

    ContpeftError                 exit 1   the work failed
    ├── UsageError                exit 2   what was asked for cannot be meant
    │   ├── ConfigError                    a YAML key or value
    │   ├── SpecError                      an adapter spec, reference or composition
    │   └── UnsupportedError               a strategy, trainer or model contpeft refuses by name
    ├── NotFoundError             exit 3   no such adapter, version, task, run, module attribute
    ├── IntegrityError            exit 4   stored bytes are not what was stored
    │   └── BaseMismatchError              the model is not the one a version was trained on
    ├── StoreBusyError            exit 5   locked for too long, out of space, read-only
    └── TrainingError             exit 1   a fit that would have gone wrong silently

Each message is one line: the thing, the reason, the mend.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BaseMismatchError",
    "ConfigError",
    "ContpeftError",
    "IntegrityError",
    "NotFoundError",
    "SpecError",
    "StoreBusyError",
    "TrainingError",
    "UnsupportedError",
    "UsageError",
    "suggest",
]


class ContpeftError(Exception):
    """Base of all errors raised on purpose; ``exit_code`` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class UsageError(ContpeftError):
    """What was asked for cannot be meant."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key or value is wrong."""


class SpecError(UsageError):
    """An adapter spec, a reference or a composition is malformed."""


class UnsupportedError(UsageError):
    """A strategy, trainer setting or model that contpeft refuses by name."""


class NotFoundError(ContpeftError):
    """There is no adapter, version, task, run or module attribute of that name."""

    exit_code = 3


class IntegrityError(ContpeftError):
    """Stored bytes are missing or are not the bytes that were stored."""

    exit_code = 4


class BaseMismatchError(IntegrityError):
    """The model at hand is not the base model a version was trained on."""


class StoreBusyError(ContpeftError):
    """The store is locked by someone else, read-only or out of space."""

    exit_code = 5


class TrainingError(ContpeftError):
    """A fit that Lightning would have let go wrong without a word."""


def suggest(wrong: str, known: Iterable[str], *, limit: int = 12) -> str:
    """Returns the mend that ends a "no such thing" message.

    Args:
        wrong: the name that was asked for.
        known: the names that exist.
        limit: how many existing names to list when none is close.

    Returns:
        ``"; did you mean 'billing'?"``, or ``"; there are: a, b"``, or ``"; there are none yet"``.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not names:
        return "; there are none yet"
    shown = ", ".join(names[:limit])
    return f"; there are: {shown}" + (", ..." if len(names) > limit else "")
