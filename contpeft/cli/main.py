"""``contpeft``: the commands, and what every one of them does with an error."""

from __future__ import annotations

import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import contpeft
from contpeft.cli import data, methods, run, search, store, strategies
from contpeft.errors import ContpeftError

__all__ = ["app", "main"]

EPILOG = """\b
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no such adapter, version or run,
4 stored data is damaged, 5 store busy, read-only or out of space, 130 interrupted.
"""


class OneLineErrors(TyperGroup):
    """A group whose commands report a :class:`ContpeftError` as one line and an exit code."""

    # The context is a class of a private module of typer.
    def invoke(self, ctx: Any) -> Any:
        """Runs a command; the traceback of an error is shown with ``--debug``."""
        try:
            return super().invoke(ctx)
        except ContpeftError as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None


app = typer.Typer(
    name="contpeft",
    cls=OneLineErrors,
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,  # errors and help as plain text, the same on a terminal and in a pipe
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(store.app, name="store")
app.command(epilog=run.RUN_EXAMPLES)(run.run)
app.command(epilog=search.SEARCH_EXAMPLES)(search.search)
app.command(epilog=run.REPORT_EXAMPLES)(run.report)
app.command(epilog=methods.METHODS_EXAMPLES)(methods.methods)
app.add_typer(strategies.app, name="strategies")
app.add_typer(data.app, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"contpeft {contpeft.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="CONTPEFT_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Continual learning with adapters: run task sequences, look after what they learned."""


def main() -> None:
    """Runs the command line."""
    app()
