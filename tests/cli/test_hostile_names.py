"""Names that would escape, inject or paint are refused; free text is stored and printed as it is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import BASE, printed, state
from typer.testing import Result

from contpeft.errors import SpecError
from contpeft.store import AdapterStore

Call = Callable[..., Result]

ESCAPES = (
    "../x",
    "..",
    ".",
    "/etc/passwd",
    "\\\\host\\x",
    "C:\\x",
    "~",
    "~root",
    ".hidden",
    "a/b",
    "%2e%2e%2fx",
)
CONTROLS = ("a\0b", "a\nb", "a\r", "a\tb", "\x1b[31mred", "\x07", "\x7f", "\x85", "\u2028", "\u202etxt.exe")
ALIKE = (
    "\uff41",
    "a\u0301",
    "\u0430dapter",
    "a\u200bb",
    "\u00ad",
    "\u212a",
    "\u0131",
    "\ufeffa",
    "\U0001f600",
)
MARKUP = (
    "[red]",
    "[/]",
    "[link=file:///x]y[/link]",
    "<script>alert(1)</script>",
    "&amp;",
    "{x}",
    "{{ x }}",
    "$(id)",
)
SYNTAX = (
    "'; DROP TABLE version; --",
    '" OR 1=1',
    "a@1",
    "@",
    "sha256:abcdef12",
    "a b",
    " ",
    "",
    "*",
    "?",
    "a;b",
    "#",
)
OPTIONS = ("-", "-rf", "--yes", "--help", "--store=/x")
LONG = ("x" * 129, "x" * 5000, "\u00e9" * 100)
SIMPLE = (*ESCAPES, *CONTROLS, *ALIKE, *MARKUP, *SYNTAX, *OPTIONS, *LONG)
PAIRS = (a + b for a, b in itertools.product((*ESCAPES, *MARKUP, *SYNTAX), (*CONTROLS, *ALIKE)))
HOSTILE = tuple(dict.fromkeys((*SIMPLE, *PAIRS)))[:300]

# What other systems cannot take as a file's name may be a name here: no name becomes a path.
HARMLESS = ("CON", "nul.txt", "com1", "a..b", "_", "0", "x" * 128, "latest", "None", "null")


def snapshot(folder: Path) -> dict[str, bytes]:
    """Returns every file around a store, those SQLite writes to left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("store.db"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_there_are_three_hundred() -> None:
    assert len(HOSTILE) == 300


def test_no_name_leaves_the_store(filled: AdapterStore) -> None:
    around = filled.path.parent
    before = snapshot(around), filled.events()
    for name in HOSTILE:
        attempts: dict[str, Callable[[], object]] = {
            "adapter": lambda name=name: filled.register(name, state(9), base=BASE),
            "rename": lambda name=name: filled.upkeep.rename("mail", name),
            "alias": lambda name=name: filled.aliases.set("mail@1", name),
            "tag": lambda name=name: filled.tags.set("mail@1", {name: ""}),
            "run": lambda name=name: filled.start_run(name, config={}, seed=0, tasks=[], scenario="x"),
            "remote": lambda name=name: filled.transfer.add_remote(name, str(around / "shared")),
        }
        for what, attempt in attempts.items():
            with pytest.raises(SpecError) as caught:
                attempt()
            assert str(caught.value).isprintable(), (what, name)
    assert (snapshot(around), filled.events()) == before


@pytest.mark.parametrize("stride", [30, pytest.param(1, marks=pytest.mark.acceptance)])
def test_no_name_leaves_the_command_line(filled: AdapterStore, call: Call, stride: int) -> None:
    around = filled.path.parent
    before = snapshot(around), filled.events()
    for name in HOSTILE[::stride]:
        for command in (
            ("alias", "set", "mail@1", "--", name),
            ("rename", "mail", "--", name),
            ("show", "--", f"{name}@x@1"),
        ):
            result = call("store", *command)
            assert result.exit_code in (2, 3), (command, result.stderr)
            assert result.stdout == ""
            assert result.stderr.startswith("error: ")
            assert result.stderr.removesuffix("\n").isprintable(), command
    assert (snapshot(around), filled.events()) == before


def test_harmless_names_are_names(filled: AdapterStore, call: Call) -> None:
    around = filled.path.parent
    before = snapshot(around).keys()
    for name in HARMLESS:
        assert filled.register(name, state(4), base=BASE).ref == f"{name}@1"
        assert printed(call("store", "list", "--name", name, "-q")) == f"{name}@1\n"
    assert snapshot(around).keys() == before  # the content was there


def test_free_text_is_printed_as_it_is(filled: AdapterStore, call: Call) -> None:
    filled.tags.set("mail@1", {f"k{place:03}": text for place, text in enumerate(HOSTILE)})
    shown = json.loads(printed(call("store", "show", "mail@1", "--json")))
    assert tuple(shown["tags"].values()) == HOSTILE
    rows = printed(call("store", "show", "mail@1")).splitlines()
    assert all(row.isprintable() for row in rows)
    (tags,) = (row for row in rows if row.startswith("  tags "))
    assert tags.split(maxsplit=1)[1] == ", ".join(
        f"k{place:03}={spelled(text)}" if text else f"k{place:03}" for place, text in enumerate(HOSTILE)
    )


def spelled(text: str) -> str:
    """Returns ``text`` with what a terminal would obey spelled out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
