"""What commands that measure versions have in common: their options, and the evaluation they ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contpeft.cli.quiet import quiet_libraries
from contpeft.errors import UsageError

if TYPE_CHECKING:
    from contpeft.experiments.evaluation import Evaluation
    from contpeft.store import AdapterStore

__all__ = ["EvaluationFile", "Heads", "Rows", "open_evaluation", "parse_heads"]

EvaluationFile = Annotated[
    Path, typer.Option("--eval", metavar="FILE", help="An evaluation or experiment file (YAML).")
]
Heads = Annotated[
    list[str] | None,
    typer.Option(
        "--head", metavar="TASK=REF", help="Whose head answers a task, for versions without one of it."
    ),
]
Rows = Annotated[int | None, typer.Option(min=1, help="At most so many test rows of each task.")]


def open_evaluation(
    store: AdapterStore, file: Path, rows: int | None, heads: Mapping[str, str] | None = None
) -> Evaluation:
    """Returns the tasks and the module of an evaluation file.

    Args:
        store: where the versions are.
        file: the file.
        rows: at most so many test rows of each task; None for all.
        heads: task to the version whose head answers it.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: if it is malformed.
    """
    from contpeft.experiments.config import load_evaluation
    from contpeft.experiments.evaluation import Evaluation

    quiet_libraries()
    return Evaluation(load_evaluation(file), store, rows=rows, heads=heads)


def parse_heads(texts: list[str] | None) -> dict[str, str]:
    """Returns ``task=ref`` texts as a mapping.

    Raises:
        UsageError: if one is none.
    """
    pairs = [text.partition("=") for text in texts or ()]
    for task, _, ref in pairs:
        if not task or not ref:
            raise UsageError(f"--head {task!r} is no TASK=REF; write --head billing=billing@3")
    return {task: ref for task, _, ref in pairs}
