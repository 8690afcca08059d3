"""``contpeft strategies``: the continual-learning methods there are, and which to try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from contpeft.cli.options import AsJson
from contpeft.cli.output import (
    Column,
    examples,
    hint,
    print_details,
    print_json,
    print_lines,
    print_table,
)
from contpeft.errors import UsageError

if TYPE_CHECKING:
    from contpeft.strategies.catalogue import PartRow, RecipeRow
    from contpeft.strategies.recommend import Advice

__all__ = ["app"]

LIST_EXAMPLES: Final = examples(
    "contpeft strategies", "contpeft strategies --json", "contpeft strategies show isolated"
)
SHOW_EXAMPLES: Final = examples(
    "contpeft strategies show isolated", "contpeft strategies show sequential --json"
)
RECOMMEND_EXAMPLES: Final = examples(
    "contpeft strategies recommend",
    "contpeft strategies recommend --task-id --constant",
    "contpeft strategies recommend --old-data --shared-labels --json",
)

app = typer.Typer(epilog=LIST_EXAMPLES, help="List the continual-learning strategies, and say which to try.")


@app.callback(invoke_without_command=True)
def strategies(
    context: typer.Context,
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page of the documentation.")
    ] = False,
) -> None:
    """List the strategies and the parts they are made of."""
    if context.invoked_subcommand is not None:
        return
    if markdown and as_json:
        raise UsageError("--markdown prints a page and --json a value; leave one out")
    from contpeft.strategies.catalogue import part_rows, recipe_rows
    from contpeft.strategies.page import strategies_page

    if markdown:
        print(strategies_page(), end="")
        return
    recipes, parts = recipe_rows(), part_rows()
    if as_json:
        print_json({"recipes": [r.to_json() for r in recipes], "parts": [p.to_json() for p in parts]})
        return
    columns: tuple[Column[RecipeRow], ...] = (
        Column("strategy", lambda row: row.name),
        Column("serves", lambda row: _short(row.scenarios)),
        Column("keeps a task", lambda row: "; ".join(row.growth) or None),
        Column("needs", lambda row: ", ".join(row.needs) or None),
        Column("what", lambda row: row.what),
        Column("paper", lambda row: row.paper or None),
    )
    print_table(recipes, columns)
    print_lines([""])
    of_parts: tuple[Column[PartRow], ...] = (
        Column("part", lambda row: row.name),
        Column("kind", lambda row: row.kind),
        Column("keeps a task", lambda row: row.growth or None),
        Column("needs", lambda row: ", ".join(row.needs) or None),
        Column("what", lambda row: row.what),
        Column("paper", lambda row: row.paper or None),
    )
    print_table(parts, of_parts)
    hint("contpeft strategies show NAME explains one; serves: c class-, t task-, d domain-incremental")


@app.command(epilog=SHOW_EXAMPLES)
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `contpeft strategies`.")],
    as_json: AsJson = False,
) -> None:
    """Explain one strategy: its parts with their values, what it keeps and needs, the paper."""
    from contpeft.strategies.catalogue import recipe_row

    row = recipe_row(name)
    if as_json:
        print_json(row.to_json())
        return
    print_lines([row.name, f"  {row.what}"])
    told = {
        "paper": row.paper or None,
        "serves": ", ".join(row.scenarios),
        "keeps a task": "; ".join(row.growth) or "nothing",
        "needs": ", ".join(row.needs) or "nothing",
        "learns": "all tasks at once" if row.joint else "task after task",
    }
    print_details(told)
    for part in row.parts:
        options = ", ".join(f"{key}={value}" for key, value in part.options.items())
        print_lines(["", f"{part.kind}: {part.name}({options})", f"  {part.what}"])
        if part.paper:
            print_details({"paper": part.paper})


@app.command(epilog=RECOMMEND_EXAMPLES)
def recommend(
    task_id: Annotated[
        bool, typer.Option("--task-id", help="The task of a row is known when asked.")
    ] = False,
    old_data: Annotated[bool, typer.Option("--old-data", help="Rows of earlier tasks may be kept.")] = False,
    constant: Annotated[
        bool, typer.Option("--constant", help="Memory must not grow by an adapter (or prompts) a task.")
    ] = False,
    shared_labels: Annotated[
        bool, typer.Option("--shared-labels", help="All tasks have the same labels.")
    ] = False,
    texts: Annotated[bool, typer.Option("--texts/--no-texts", help="Rows are texts.")] = True,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="How many to name.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Say which strategies to try, from a few facts and from what was measured."""
    from contpeft.strategies.recommend import Facts
    from contpeft.strategies.recommend import recommend as advise

    facts = Facts(task_id, old_data, constant, shared_labels, texts)
    found = advise(facts)[:top]
    if as_json:
        print_json([each.to_json() for each in found])
        return
    columns: tuple[Column[Advice], ...] = (
        Column("strategy", lambda row: row.name),
        Column("to joint", lambda row: row.gap, "{:+.1f}".format, right=True),
        Column("measured on", lambda row: ", ".join(row.streams) or None),
        Column("keeps a task", lambda row: "; ".join(row.growth) or None),
        Column("what", lambda row: row.what),
    )
    print_table(found, columns)
    hint(f"{facts.scenario}; 'to joint' in points of accuracy; docs/results.md has the tables")


def _short(scenarios: tuple[str, ...]) -> str:
    return " ".join(each[0] for each in scenarios)
