"""``contpeft search``: the adapter method of a task sequence, found by running it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from contpeft.cli.options import AsJson, parse_duration
from contpeft.cli.output import Column, examples, hint, print_json, print_lines, print_table
from contpeft.cli.quiet import quiet_libraries
from contpeft.errors import UsageError

if TYPE_CHECKING:
    from contpeft.experiments.method_search import MethodSearchResult, MethodTrial

__all__ = ["SEARCH_EXAMPLES", "search"]

SEARCH_EXAMPLES: Final = examples(
    "contpeft search experiments/quickstart.yaml",
    "contpeft search experiments/quickstart.yaml --methods lora,pfeiffer,ia3 --budget 1% --trials 20",
    "contpeft search my.yaml --strategy isolated --protocol all_classes --rates 1e-4:1e-2 --timeout 30m",
)
KEEP: Final = "keep"
_TARGETS: Final = ("usual", "all-linear")


def search(
    experiment: Annotated[Path, typer.Argument(help="The experiment, a YAML file.", metavar="FILE")],
    trials: Annotated[
        int, typer.Option(min=1, help="How many adapters are tried, those of earlier calls included.")
    ] = 20,
    methods: Annotated[
        str, typer.Option(help="Methods to choose from; contpeft methods lists them.")
    ] = "lora,pfeiffer,ia3,bitfit",
    targets: Annotated[
        str, typer.Option(help="Where they are put: usual, all-linear, or both.")
    ] = "usual,all-linear",
    rates: Annotated[
        str, typer.Option(metavar="LOW:HIGH", help="Learning rates; keep for the experiment's own.")
    ] = "3e-4:1e-2",
    budget: Annotated[
        str | None, typer.Option(help="At most so much is trained: 1% of the base, or a number.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="How the sequence is run; the experiment's first that trains.")
    ] = None,
    protocol: Annotated[
        Literal["task_aware", "seen_classes", "all_classes"] | None,
        typer.Option(help="Which classes may be answered; the experiment's first."),
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option(help="Share of the training rows to measure on; a quarter unless the file says."),
    ] = None,
    pruner: Annotated[
        Literal["median", "halving", "none"], typer.Option(help="Who stops trials that do badly.")
    ] = "median",
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="Begin no task after it: 90s, 10m, 2h.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search; the experiment has its own.")] = 0,
    store: Annotated[
        Path | None, typer.Option("--store", envvar="CONTPEFT_STORE", help="Folder of the store.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the adapter method for a task sequence; a search that was stopped goes on.

    Each trial runs the sequence with another method, size, place and learning rate, on a part of the training
    rows. It is measured on the others: no test row is read. A trial that does badly after a task is stopped.
    The best one's settings are printed as YAML for the experiment file.
    """
    from contpeft.experiments.config import read_document
    from contpeft.experiments.method_search import MethodSpace, Variants, search_methods

    space = MethodSpace(
        methods=_names(methods, "--methods"),
        targets=_targets(targets),
        rates=_rates(rates),
        budget=_budget(budget),
        seed=seed,
    )
    quiet_libraries()
    document = read_document(experiment) | ({} if store is None else {"store": str(store)})
    result = search_methods(
        Variants(document, str(experiment), strategy, protocol, validation),
        space,
        trials=trials,
        pruner=pruner,
        timeout=None if timeout is None else parse_duration(timeout).total_seconds(),
        observe=_telling(trials),
    )
    print_json(result.to_json()) if as_json else _print_result(result, trials)


def _names(text: str, option: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(each.strip() for each in text.split(",") if each.strip()))
    if not names:
        raise UsageError(f"{option} names nothing; write {option} lora,ia3")
    return names


def _targets(text: str) -> tuple[Any, ...]:
    names = _names(text, "--targets")
    for name in names:
        if name not in _TARGETS:
            raise UsageError(f"--targets {name!r} is unknown; write usual, all-linear, or both")
    return names


def _rates(text: str) -> tuple[float, float] | None:
    if text == KEEP:
        return None
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise UsageError(f"--rates {text!r} are no learning rates; write 1e-4:1e-2, 1e-3 or keep") from None


def _budget(text: str | None) -> str | int | None:
    return int(text) if text is not None and re.fullmatch(r"\d+", text) else text


def _telling(count: int) -> Callable[[MethodTrial], None]:
    def tell(trial: MethodTrial) -> None:
        tried = f"trial {trial.number + 1} of {count}: {_adapter(trial)}"
        rate = "" if trial.rate is None else f", rate {trial.rate:g}"
        mean = "" if trial.mean is None else f": {_percent(trial.mean)} after {_tasks(trial)}"
        hint(f"{tried}{rate}{mean}{_ended(trial)}")

    return tell


def _ended(trial: MethodTrial) -> str:
    if trial.refused is not None:
        return f": refused: {trial.refused}"
    return {"running": "", "finished": ", finished", "stopped": ", stopped"}[trial.state]


def _print_result(result: MethodSearchResult, asked: int) -> None:
    rows = sum(result.rows.values())
    held = f"{rows} held-out training rows of {len(result.tasks)} tasks"
    print_lines([f"{result.strategy}, {result.protocol}: accuracy in % on {held}"])
    print_table(result.ranked, _columns(result), indent=2)
    print_lines(f"trial {trial.number}: {trial.refused}" for trial in result.ranked if trial.refused)
    if len(result.trials) < asked:
        print_lines(["", f"{len(result.trials)} of {asked} trials in the time given; the same call goes on"])
    best = result.best
    assert best is not None
    print_lines(["", f"trial {best.number} is the best; put into the experiment:", *_indented(best.yaml())])


def _columns(result: MethodSearchResult) -> list[Column[MethodTrial]]:
    rated = any(trial.rate is not None for trial in result.trials)
    rate: Column[MethodTrial] = Column("rate", lambda trial: trial.rate, "{:g}".format, right=True)
    return [
        Column("trial", lambda trial: trial.number, right=True),
        Column("adapter", _adapter),
        *([rate] if rated else []),
        Column("mean", lambda trial: trial.mean, _percent, right=True),
        Column("trained", lambda trial: trial.trained, "{:,}".format, right=True),
        Column("share", lambda trial: trial.share, "{:.3%}".format, right=True),
        Column("seconds", lambda trial: trial.seconds, "{:.1f}".format, right=True),
        Column("ended", lambda trial: _outcome(trial)),
    ]


def _outcome(trial: MethodTrial) -> str:
    return f"stopped after {_tasks(trial)}" if trial.state == "stopped" else trial.state


def _adapter(trial: MethodTrial) -> str:
    options = trial.adapter.options.items()
    return " ".join([trial.adapter.method, *(f"{name}={value}" for name, value in options)])


def _tasks(trial: MethodTrial) -> str:
    count = len(trial.scores[-1]) if trial.scores else 0
    return f"{count} task{'' if count == 1 else 's'}"


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
