"""The app: errors and exit codes, help, and what starting it costs."""

from __future__ import annotations

import os
import resource
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import contpeft
from contpeft import errors
from contpeft.cli import app
from contpeft.store import AdapterStore

Call = Callable[..., Result]
ERRORS = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
EXIT_CODES = {
    **{errors.ContpeftError: 1, errors.TrainingError: 1},
    **{errors.UsageError: 2, errors.ConfigError: 2, errors.SpecError: 2, errors.UnsupportedError: 2},
    errors.NotFoundError: 3,
    **{errors.IntegrityError: 4, errors.BaseMismatchError: 4},
    errors.StoreBusyError: 5,
}


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_one_line_and_an_exit_code(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: type[errors.ContpeftError]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("the thing, the reason, the mend")

    monkeypatch.setattr(AdapterStore, "versions", fail)
    result = call("store", "list")
    assert (result.exit_code, result.stdout) == (EXIT_CODES[error], "")
    assert result.stderr == "error: the thing, the reason, the mend\n"


@pytest.mark.parametrize(("options", "environment"), [(["--debug"], {}), ([], {"CONTPEFT_DEBUG": "1"})])
def test_debug_shows_the_traceback(call: Call, options: list[str], environment: dict[str, str]) -> None:
    result = call(*options, "store", "show", "x", **environment)
    assert result.exit_code == 3
    assert result.stderr.startswith("Traceback (most recent call last):\n")
    assert "in find\n" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: no adapter 'x' in ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["store", "show", "billng"], 3, "error: no adapter 'billng' in {}; did you mean 'billing'?\n"),
        (["store", "show", "billing@9"], 3, "error: no version 'billing@9' in {}; there are: 1 to 2\n"),
        (["store", "show", "a b"], 2, "error: adapter name 'a b' is not usable: 1 to 128 characters"),
        (["store", "list", "--csv", "-q"], 2, "error: --csv and -q cannot be given together; choose one\n"),
        (["store", "list", "--limit", "0"], 2, "Usage: "),
        (["store", "lst"], 2, "Usage: "),
        (["store", "list", "--store", "{}/x"], 3, "error: no adapter store in {}/x (it has no store.db)"),
    ],
)
def test_what_is_asked_wrongly(
    call: Call, filled: AdapterStore, arguments: list[str], code: int, message: str
) -> None:
    result = call(*(argument.format(filled.path) for argument in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith(message.format(filled.path))


def test_a_mistyped_command_is_suggested(call: Call) -> None:
    assert "No such command 'lst'. Did you mean 'list'?" in call("store", "lst").stderr


def test_a_damaged_store_exits_with_4(call: Call, filled: AdapterStore) -> None:
    filled.close()
    (filled.path / "store.db").write_text("no database" * 1000)
    result = call("store", "list")
    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == (
        f"error: {filled.path}/store.db is damaged (file is not a database); restore it from a backup\n"
    )


def test_a_newer_store_exits_with_4(call: Call, filled: AdapterStore) -> None:
    with closing(sqlite3.connect(filled.path / "store.db")) as raw:
        raw.execute("PRAGMA user_version = 99")
    result = call("store", "list")
    assert (result.exit_code, "upgrade contpeft" in result.stderr) == (4, True)


def test_a_catalogue_that_cannot_be_opened_exits_with_5(call: Call, filled: AdapterStore) -> None:
    filled.close()
    (filled.path / "store.db").unlink()
    (filled.path / "store.db").mkdir()
    result = call("store", "list")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr.startswith(
        f"error: cannot use {filled.path}/store.db (unable to open database file)"
    )


def test_ctrl_c_exits_with_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AdapterStore, "versions", interrupted)
    result = call("store", "list")
    assert (result.exit_code, result.stdout) == (130, "")


def test_version(call: Call) -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"contpeft {contpeft.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["store", "-h"], ["store", "list", "-h"]])
def test_help_is_an_answer(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ")


def test_the_top_help_lists_the_exit_codes() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    for code in (*sorted(set(EXIT_CODES.values())), 130):
        assert f" {code} " in text.replace("\n", " ")


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every command below ``command`` that does something, and how it is called."""
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from commands(inner, (*path, name))


TOP = typer.main.get_command(app)
COMMANDS = dict(commands(TOP))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_examples(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    sentence = command.help.strip().splitlines()[0]
    assert sentence.endswith(".")
    assert sentence[0].isupper()
    assert all(param.help for param in command.params if param.name != "help")
    lines = [line.strip() for line in CliRunner().invoke(app, [*path, "--help"]).stdout.splitlines()]
    examples = [line for line in lines[lines.index("Examples:") + 1 :] if line]
    assert 2 <= len(examples) <= 3
    ours = [shlex.split(line)[1:] for line in examples if line.startswith("contpeft ")]
    assert ours
    for arguments in ours:
        # Parsing is done, running is not: a renamed option or a missing argument fails here.
        assert tuple(arguments[: len(path)]) == path
        command.make_context(path[-1], arguments[len(path) :])


def test_every_group_has_help() -> None:
    groups = [TOP, *(command for command in TOP.commands.values() if hasattr(command, "commands"))]
    assert len(groups) >= 2
    assert all(group.help.endswith(".") for group in groups)


def run(filled: AdapterStore, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "CONTPEFT_STORE": str(filled.path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, **options)


def test_the_module_is_the_command(filled: AdapterStore) -> None:
    done = run(filled, "-m", "contpeft", "store", "list", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "mail@1\nboth@1\nbilling@2\nbilling@1\n", "")


def test_listing_loads_nothing_heavy(filled: AdapterStore) -> None:
    code = (
        "import sys\n"
        "from contpeft.cli import app\n"
        "app(['store', 'list', '-q'], standalone_mode=False)\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = run(filled, "-c", code)
    assert done.stdout.splitlines()[0] == "mail@1"
    heavy = {"torch", "numpy", "pandas", "sqlite_utils", "peft", "lightning", "transformers", "safetensors"}
    assert heavy & set(done.stderr.split()) == set()


def test_listing_is_quick(filled: AdapterStore) -> None:
    """Beside the libraries it stands on: what it costs in seconds is up to the machine."""

    def cost(*arguments: str) -> float:
        costs = []
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            assert run(filled, *arguments).returncode == 0
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(costs)

    libraries = cost("-c", "import typer, rich.table, rich.tree, sqlite_utils, fsspec")
    assert cost("-m", "contpeft", "store", "list") <= 2 * libraries


def test_a_closed_pipe_is_no_traceback(filled: AdapterStore) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "CONTPEFT_STORE": str(filled.path)}
    done = subprocess.run(
        [sys.executable, "-m", "contpeft", "store", "list", "--json"],
        env=environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert done.returncode != 0
