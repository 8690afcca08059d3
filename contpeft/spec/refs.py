"""Names of adapters and references to their versions."""

from __future__ import annotations

import re
from dataclasses import dataclass

from contpeft.errors import SpecError

__all__ = ["AdapterRef", "check_name"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{8,64}\Z")


def check_name(name: str, what: str = "adapter") -> str:
    """Returns ``name`` if it may name an adapter, a run or an alias.

    Raises:
        SpecError: if it is empty, too long, starts with ``.`` or ``-``, or has a character outside
            ``A-Z a-z 0-9 . _ -``.
    """
    if not _NAME.match(name):
        raise SpecError(
            f"{what} name {name!r} is not usable: 1 to 128 characters of A-Z a-z 0-9 . _ -, "
            "not starting with '.' or '-'"
        )
    return name


@dataclass(frozen=True)
class AdapterRef:
    """A reference to one stored version: ``name``, ``name@3``, ``name@champion``, ``sha256:ab12...``.

    Attributes:
        name: the adapter's name; empty when the version is named by its digest.
        selector: a version number, an alias, ``"latest"`` (also what a bare name means), or the
            digest prefix with its ``sha256:``.
    """

    name: str
    selector: int | str = "latest"

    @classmethod
    def parse(cls, text: str) -> AdapterRef:
        """Returns the reference ``text`` spells.

        Raises:
            SpecError: if it is no reference.
        """
        if text.startswith("sha256:"):
            if not _DIGEST.match(text):
                raise SpecError(f"reference {text!r} needs 8 to 64 hex digits after 'sha256:'")
            return cls("", text)
        name, at, selector = text.partition("@")
        check_name(name)
        if not at:
            return cls(name)
        if selector.isdecimal() and selector.isascii():
            return cls(name, int(selector))
        return cls(name, check_name(selector, "alias"))

    def __str__(self) -> str:
        if not self.name:
            return str(self.selector)
        return f"{self.name}@{self.selector}"
