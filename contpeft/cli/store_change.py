"""``contpeft store tag``, ``alias`` and ``rename``: what versions are called."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated, Final

import typer

from contpeft.cli.options import DEFAULT_STORE, AsJson, Name, Ref, StorePath, open_store
from contpeft.cli.output import (
    Column,
    examples,
    hint,
    print_json,
    print_lines,
    print_table,
    show_tags,
    show_time,
)
from contpeft.store import AliasChange

__all__ = ["RENAME_EXAMPLES", "TAG_EXAMPLES", "alias_app", "rename", "tag"]

TAG_EXAMPLES: Final = examples(
    "contpeft store tag billing@3 owner=ada reviewed",
    "contpeft store tag billing@champion keep",
    "contpeft store tag billing@3 --remove owner",
)
RENAME_EXAMPLES: Final = examples(
    "contpeft store rename billing invoices",
    "contpeft store rename billing invoices --store /data/adapters",
)

alias_app = typer.Typer(
    help="Name versions by aliases that move, and see where they were.", no_args_is_help=True
)

AliasName = Annotated[str, typer.Argument(help="The alias, such as champion.")]

CHANGES: Final[tuple[Column[AliasChange], ...]] = (
    Column("alias", lambda c: f"{c.name}@{c.alias}"),
    Column("at", lambda c: c.at, show_time),
    Column("actor", lambda c: c.actor),
    Column("before", lambda c: c.before and f"{c.name}@{c.before}"),
    Column("after", lambda c: c.after and f"{c.name}@{c.after}"),
    Column("undo", lambda c: "undo" if c.undo else None),
)


def tag(
    ref: Ref,
    tags: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY[=VALUE]]...", help="Tags to put on it.")
    ] = None,
    store: StorePath = DEFAULT_STORE,
    remove: Annotated[list[str] | None, typer.Option(metavar="KEY", help="A tag to take off it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put tags on a version, take them off, or list them.

    Pruning never takes a version that is tagged keep.
    """
    with open_store(store) as opened:
        exact = opened.resolve(ref)
        before = opened.tags.of(exact).get(exact, {})
        if remove:
            opened.tags.remove(exact, remove)
        if tags:
            opened.tags.set(exact, {key: value for key, _, value in (each.partition("=") for each in tags)})
        found = opened.tags.of(exact).get(exact, {})
    if as_json:
        print_json({"ref": exact, "tags": found})
    else:
        print_lines(show_tags(found))
    if found != before:
        hint(f"tagged {exact}; undo: contpeft store tag {exact} {_undo(before, found)}")


@alias_app.command(
    "set",
    epilog=examples(
        "contpeft store alias set billing@3 champion",
        "contpeft store alias set billing@challenger champion",
    ),
)
def set_alias(ref: Ref, alias: AliasName, store: StorePath = DEFAULT_STORE, as_json: AsJson = False) -> None:
    """Let an alias stand for a version."""
    with open_store(store) as opened:
        change = opened.aliases.set(ref, alias)
        exact = opened.resolve(ref)
    if change is not None:
        _tell(change, as_json)
        return
    if as_json:
        print_json(None)
    hint(f"{exact.partition('@')[0]}@{alias} stands for {exact} already")


@alias_app.command(
    "rm",
    epilog=examples(
        "contpeft store alias rm billing champion",
        "contpeft store alias rm billing challenger --json",
    ),
)
def remove_alias(
    name: Name, alias: AliasName, store: StorePath = DEFAULT_STORE, as_json: AsJson = False
) -> None:
    """Remove an alias; its history stays."""
    with open_store(store) as opened:
        change = opened.aliases.remove(name, alias)
    _tell(change, as_json)


@alias_app.command(
    "undo",
    epilog=examples(
        "contpeft store alias undo billing champion",
        "contpeft store alias undo billing champion --json",
    ),
)
def undo_alias(
    name: Name, alias: AliasName, store: StorePath = DEFAULT_STORE, as_json: AsJson = False
) -> None:
    """Take the last move of an alias back; again, the one before it."""
    with open_store(store) as opened:
        change = opened.aliases.undo(name, alias)
    _tell(change, as_json)


@alias_app.command(
    "log",
    epilog=examples(
        "contpeft store alias log billing champion",
        "contpeft store alias log billing --json",
    ),
)
def alias_log(
    name: Name,
    alias: Annotated[str | None, typer.Argument(help="Only this alias.")] = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Tell which version an alias stood for when, newest first."""
    with open_store(store) as opened:
        changes = opened.aliases.log(name, alias)
    if as_json:
        print_json([asdict(change) for change in changes])
    else:
        print_table(changes, CHANGES)


def rename(
    old: Name,
    new: Annotated[str, typer.Argument(help="The new name.")],
    store: StorePath = DEFAULT_STORE,
) -> None:
    """Give an adapter another name.

    Refused where a finished step or a recipe, which never change, names a version of it.
    """
    with open_store(store) as opened:
        opened.upkeep.rename(old, new)
    hint(f"renamed {old} to {new}; undo: contpeft store rename {new} {old}")


def _undo(before: dict[str, str], after: dict[str, str]) -> str:
    back = {key: value for key, value in before.items() if after.get(key) != value}
    gone = [f"--remove {key}" for key in after if key not in before]
    return " ".join([*map(shlex.quote, show_tags(back)), *gone])


def _tell(change: AliasChange, as_json: bool) -> None:
    if as_json:
        print_json(asdict(change))
    alias = f"{change.name}@{change.alias}"
    where = "is gone" if change.after is None else f"stands for {change.name}@{change.after}"
    was = "" if change.before is None else f" (was {change.name}@{change.before})"
    undo = "" if change.undo else f"; undo: contpeft store alias undo {change.name} {change.alias}"
    hint(f"{alias} {where}{was}{undo}")
