"""``contpeft store fuse --eval``: rule, weights and rank found by measuring."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from contpeft.cli.evaluating import open_evaluation
from contpeft.cli.output import Column, hint, print_json, print_lines, print_table
from contpeft.errors import UsageError
from contpeft.store import AdapterStore

if TYPE_CHECKING:
    from contpeft.experiments.search_space import ParentScores, SearchResult, Space, Trial

__all__ = ["AUTO", "Asked", "Preset", "Trials", "find_merge"]

AUTO: Final = "auto"
_SHOWN: Final = 20

Trials = Annotated[int, typer.Option(min=1, help="How many merges --eval tries.")]
Preset = Annotated[
    Literal["lorahub"] | None,
    typer.Option(help="Search as a paper did: lorahub, weights of a sum on few examples."),
]


@dataclass(frozen=True)
class Asked:
    """What a search was asked for.

    Attributes:
        refs: the versions.
        file: the evaluation file.
        rule: its name, ``"auto"``, or None.
        parameters: of the rule.
        weights: one a version, or None.
        find_weights: whether they are searched.
        rank: as ``--rank`` says, or ``"auto"``.
        preset: the paper to follow, or None.
        trials: how many merges are tried.
        rows: at most so many rows of each task.
        lent: whose head answers a task.
        options: seed, heads and precision.
    """

    refs: tuple[str, ...]
    file: Path
    rule: str | None
    parameters: dict[str, str]
    weights: tuple[float, ...] | None
    find_weights: bool
    rank: str
    preset: Literal["lorahub"] | None
    trials: int
    rows: int | None
    lent: dict[str, str]
    options: dict[str, Any]

    def space(self) -> Space:
        """Returns what is tried.

        Raises:
            UsageError: if nothing is left to search, or a preset is told what it says itself.
        """
        from contpeft.experiments.search_space import RANKS, RULES_TRIED, Space, lorahub

        if self.preset is not None:
            if self.rule is not None or self.rank != "full" or self.weights is not None:
                raise UsageError(
                    "--preset lorahub says rule, rank and weights; leave --rule, --rank, --weights out"
                )
            return lorahub(self.refs, **self.options)
        if not self.find_weights and AUTO not in (self.rule, self.rank):
            raise UsageError("nothing is to be searched; say --weights auto, --rule auto or --rank auto")
        return Space(
            self.refs,
            rules=RULES_TRIED if self.rule == AUTO else (self.rule or "sum",),
            parameters=self.parameters,
            weights=None if self.find_weights else self.weights or (1.0,) * len(self.refs),
            ranks=RANKS if self.rank == AUTO else (self.rank,),
            **self.options,
        )


def find_merge(opened: AdapterStore, asked: Asked, name: str, *, dry_run: bool, as_json: bool) -> None:
    """Tries merges, prints what they score, and stores the best."""
    space = asked.space()
    from contpeft.experiments.search import best_candidate, search
    from contpeft.experiments.search_space import LORAHUB_ROWS

    rows = LORAHUB_ROWS if asked.preset and asked.rows is None else asked.rows
    evaluation = open_evaluation(opened, asked.file, rows, asked.lent)
    result = search(
        evaluation, opened, space, trials=asked.trials, observe=lambda trial: _tell(trial, asked.trials)
    )
    candidate = best_candidate(opened, space, result)
    version = None if dry_run else opened.fusion.keep(candidate, name)
    if as_json:
        made = version and version.to_json()
        print_json({"version": made, "recipe": dict(candidate.recipe), **_json(result)})
        return
    _print_result(result)
    best = f"trial {result.best.number}"
    print_lines(
        ["", f"{best} is the best; nothing is stored" if version is None else f"{best} is {version.ref}"]
    )


def _tell(trial: Trial, count: int) -> None:
    merge = f"{trial.rule}, weights {_weights(trial)}, rank {trial.rank}"
    told = f"refused: {trial.refused}" if trial.refused else f"mean {_percent(trial.mean)}"
    if trial.loss is not None:
        told += f", loss {trial.loss:.4f}"
    hint(f"merge {trial.number + 1} of {count}: {merge}: {told}")


def _print_result(result: SearchResult) -> None:
    measured = sorted(result.measured, key=lambda trial: trial.values(), reverse=True)
    shown = [t for place, t in enumerate(measured) if place < _SHOWN or t in result.front]
    tasks: list[Column[Any]] = [
        Column(name, lambda row, place=place: _cell(row, place), _percent, right=True)  # type: ignore[misc]
        for place, name in enumerate(result.tasks)
    ]
    print_lines(["by themselves: accuracy in %"])
    print_table(_alone(result), [Column("version", lambda row: row.ref), *tasks], indent=2)
    print_lines(["", "merged: accuracy in %; * no other is better in all that is searched for"])
    print_table(shown, [*_merge_columns(result), *tasks, *_result_columns(result)], indent=2)
    refused = len(result.trials) - sum(trial.refused is None for trial in result.trials)
    left = [f"{len(measured) - len(shown)} more were tried" if len(measured) > len(shown) else ""]
    left.append(f"{refused} could not be merged" if refused else "")
    print_lines(f"  {each}; --json tells of all" for each in left if each)


def _merge_columns(result: SearchResult) -> list[Column[Trial]]:
    return [
        Column("trial", lambda trial: f"{trial.number}{'*' if trial in result.front else ''}"),
        Column("rule", lambda trial: trial.rule),
        Column("weights", _weights),
        Column("rank", lambda trial: trial.rank),
    ]


def _result_columns(result: SearchResult) -> list[Column[Trial]]:
    columns: list[Column[Trial]] = [
        Column("mean", lambda trial: trial.mean, _percent, right=True),
        Column("worst", lambda trial: trial.worst, _percent, right=True),
    ]
    if any(trial.loss is not None for trial in result.trials):
        columns.append(Column("loss", lambda trial: trial.loss, "{:.4f}".format, right=True))
    return columns + [
        Column(f"forgot #{place}", parent.forgotten, _signed, right=True)
        for place, parent in enumerate(result.parents, start=1)
    ]


def _alone(result: SearchResult) -> list[ParentScores]:
    """Returns the versions, numbered as the table of merges refers to them, and what they are to outdo."""
    from contpeft.experiments.search_space import ParentScores

    rows = [
        ParentScores(f"#{place} {each.ref}", each.scores)
        for place, each in enumerate(result.parents, start=1)
    ]
    bare = [] if result.bare is None else [ParentScores("no adapter, their heads", result.bare)]
    return rows + bare


def _cell(row: ParentScores | Trial, place: int) -> float | None:
    return row.scores[place]


def _json(result: SearchResult) -> dict[str, Any]:
    front, best = {trial.number for trial in result.front}, result.best.number
    trials = []
    for trial in result.trials:
        told = {"mean": trial.mean, "worst": trial.worst} if trial.refused is None else {}
        lost = {each.ref: each.forgotten(trial) for each in result.parents} if told else {}
        marks = {"pareto": trial.number in front, "best": trial.number == best}
        trials.append({**asdict(trial), **told, "forgotten": lost, **marks})
    return {
        "tasks": result.tasks,
        "parents": [asdict(each) for each in result.parents],
        "bare": result.bare,
        "trials": trials,
    }


def _weights(trial: Trial) -> str:
    return ",".join(f"{weight:g}" for weight in trial.weights)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"
