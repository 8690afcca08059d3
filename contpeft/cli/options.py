"""Options that several commands share, and what their values mean."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from contpeft.errors import UsageError
from contpeft.spec.sizes import parse_bytes
from contpeft.store import AdapterStore
from contpeft.store.completion import spellings

__all__ = [
    "DEFAULT_STORE",
    "AsCsv",
    "AsJson",
    "AsLines",
    "DryRun",
    "Name",
    "Ref",
    "StorePath",
    "Yes",
    "complete",
    "confirm",
    "open_store",
    "parse_bytes",
    "parse_duration",
    "parse_moment",
    "parse_pair",
    "parse_share",
]

DEFAULT_STORE: Final = Path("adapters")


def complete(ctx: typer.Context, incomplete: str) -> list[str]:
    """Returns the references of the store at hand that begin so, for the shell."""
    return spellings(Path(ctx.params.get("store") or DEFAULT_STORE), incomplete)


def _complete_name(ctx: typer.Context, incomplete: str) -> list[str]:
    return [each for each in complete(ctx, incomplete) if "@" not in each]


StorePath = Annotated[Path, typer.Option("--store", envvar="CONTPEFT_STORE", help="Folder of the store.")]
Ref = Annotated[
    str,
    typer.Argument(
        help="A version: name, name@3, name@champion, name@latest or sha256:ab12cd34.",
        autocompletion=complete,
    ),
]
Name = Annotated[str, typer.Argument(help="Name of an adapter.", autocompletion=_complete_name)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsLines = Annotated[bool, typer.Option("--nl", help="Print one JSON object a line.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would go.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)\Z")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%\Z")


@contextmanager
def open_store(path: Path) -> Iterator[AdapterStore]:
    """Yields the store in a folder, which must be there, and closes it."""
    opened = AdapterStore(path, create=False)
    try:
        yield opened
    finally:
        opened.close()


def confirm(question: str, *, yes: bool) -> None:
    """Asks on a terminal whether to go on; off a terminal ``--yes`` must have said so.

    Raises:
        UsageError: if nobody is there to be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is here to answer; give --yes, or --dry-run to see what goes")
    typer.confirm(question, abort=True, err=True)


def parse_duration(text: str) -> timedelta:
    """Returns ``30d``, ``12h``, ``1.5w`` or ``0`` as a duration."""
    match = _DURATION.match("0s" if text == "0" else text)
    if match is None:
        raise UsageError(f"{text!r} is no duration; write 30d, 12h, 90m, 45s or 2w")
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def parse_moment(text: str) -> datetime:
    """Returns ``2026-11-22``, ``2026-11-22T10:00`` (local time) or ``7d`` (so long ago) as a time."""
    if _DURATION.match(text):
        return datetime.now(UTC) - parse_duration(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no time; write 2026-11-22, 2026-11-22T10:00 or 7d") from None


def parse_share(text: str) -> float:
    """Returns ``5%`` as 0.05."""
    match = _SHARE.match(text)
    if match is None:
        raise UsageError(f"{text!r} is no share; write 5%")
    return float(match[1]) / 100


def parse_pair(text: str) -> tuple[str, Any]:
    """Returns ``key=value`` as its parts; what is JSON after ``config.`` keys means that value."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text!r} is no KEY=VALUE; write kind=lora or config.r=8")
    if not key.startswith("config."):
        return key, value
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
