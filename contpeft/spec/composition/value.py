"""What all compositions have in common: they are values with a JSON form and a digest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final

from contpeft.digest import json_digest

__all__ = ["Value", "head_json", "head_text", "lent"]

# The keys of a composition's JSON under which a version is named.
_NAMING: Final = ("ref", "router", "head", "fusion")


class Value(ABC):
    """A composition: a value that names stored versions and says how they answer together."""

    @abstractmethod
    def refs(self) -> tuple[str, ...]:
        """Returns the versions this composition needs."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Returns the composition as JSON."""

    def digest(self, fingerprint: Callable[[str], str]) -> str:
        """Returns the digest of what answers.

        Args:
            fingerprint: maps a reference to a digest of that version's content, so that equal
                versions under different names give equal compositions.
        """
        return json_digest(_replace_refs(self.to_json(), fingerprint))


def _replace_refs(value: Any, fingerprint: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {
            key: fingerprint(item) if key in _NAMING else _replace_refs(item, fingerprint)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_replace_refs(item, fingerprint) for item in value]
    return value


def lent(head: str | None) -> tuple[str, ...]:
    """Returns the version that lends its head, if one does."""
    return () if head is None else (head,)


def head_json(head: str | None) -> dict[str, Any]:
    """Returns what the JSON of a composition says of a lent head: nothing where none is."""
    return {} if head is None else {"head": head}


def head_text(head: str | None) -> str:
    """Returns the same for people."""
    return "" if head is None else f"; head {head}"
