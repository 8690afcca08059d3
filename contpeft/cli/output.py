"""What commands print: tables for people, JSON and CSV for programs, on standard output alone."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

__all__ = [
    "Column",
    "examples",
    "hint",
    "print_csv",
    "print_details",
    "print_json",
    "print_json_lines",
    "print_lines",
    "print_table",
    "print_tree",
    "show_tags",
    "show_time",
]

Item = TypeVar("Item")

# Wider than any line: off a terminal nothing is wrapped or cut.
_UNLIMITED = 1_000_000


@dataclass(frozen=True)
class Column(Generic[Item]):
    """One column of a listing.

    Attributes:
        name: its title.
        value: takes the cell's value from an item; None when there is none.
        show: how a table shows a value that is not None; CSV holds the value itself.
        right: whether a table aligns it to the right.
    """

    name: str
    value: Callable[[Item], Any]
    show: Callable[[Any], str] = str
    right: bool = False

    def text(self, item: Item) -> Text:
        """Returns the cell as a table shows it."""
        value = self.value(item)
        return _plain("-" if value is None else self.show(value))


def examples(*commands: str) -> str:
    """Returns the end of a command's help: commands to try, one a line."""
    # The mark keeps the lines as they are; the indent makes them code in the generated page.
    return "\b\nExamples:\n\n\b\n" + "\n".join(f"    {command}" for command in commands)


def hint(text: str) -> None:
    """Tells people, on standard error, what changed and what to do next."""
    print(text, file=sys.stderr)


def show_time(text: str) -> str:
    """Returns a stored time as tables show it: UTC, to the minute."""
    return text[:16].replace("T", " ")


def show_tags(tags: Mapping[str, str]) -> list[str]:
    """Returns tags as they are typed: ``key=value``, or ``key`` when the value is empty."""
    return [f"{key}={value}" if value else key for key, value in tags.items()]


def print_table(items: Iterable[Item], columns: Sequence[Column[Item]], indent: int = 0) -> None:
    """Prints a table: ruled on a terminal, plain aligned columns elsewhere."""
    console = _console()
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        # What is too wide for a terminal is folded, but never the name in the first column.
        whole = place == 0 or not console.is_terminal
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(column.name, justify=justify, no_wrap=whole, overflow="fold")
    for item in items:
        table.add_row(*(column.text(item) for column in columns))
    _print(console, table, indent)


def print_tree(lines: Iterable[tuple[int, str]]) -> None:
    """Prints texts that hang below each other, each with its depth, given depth first.

    Drawn with branches on a terminal, indented by two spaces elsewhere.
    """
    console = _console()
    if not console.is_terminal:
        print_lines(f"{'  ' * depth}{_plain(text)}" for depth, text in lines)
        return
    top = Tree("", hide_root=True)
    path = [top]
    for depth, text in lines:
        del path[depth + 1 :]
        path.append(path[-1].add(_plain(text)))
    _print(console, top, 0)


def print_details(values: Mapping[str, Any], indent: int = 2) -> None:
    """Prints names and values side by side; values that are None are left out."""
    grid = Table.grid(padding=(0, 2))
    for name, value in values.items():
        if value is not None:
            grid.add_row(_plain(name), _plain(str(value)))
    _print(_console(), grid, indent)


def print_lines(lines: Iterable[str]) -> None:
    """Prints one text a line."""
    for line in lines:
        print(line)


def print_json(value: Any) -> None:
    """Prints one JSON value, indented."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_json_lines(values: Iterable[Any]) -> None:
    """Prints one JSON value a line."""
    print_lines(json.dumps(value, ensure_ascii=False) for value in values)


def print_csv(items: Iterable[Item], columns: Sequence[Column[Item]]) -> None:
    """Prints comma-separated values under one line of titles."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(column.name for column in columns)
    writer.writerows([column.value(item) for column in columns] for item in items)


def _console() -> Console:
    # NO_COLOR must stop bold and dim too, which rich itself keeps.
    console = Console(highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


def _print(console: Console, table: Table | Tree, indent: int) -> None:
    console.width -= indent
    with console.capture() as capture:
        console.print(table)
    print_lines(f"{' ' * indent}{line}".rstrip() for line in capture.get().splitlines())


def _plain(text: str) -> Text:
    """Returns ``text`` to be printed as it is: no markup, no control characters."""
    return Text("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
