"""``contpeft store calibrate``: how far the confidence of a version can be believed."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from contpeft.cli.evaluating import EvaluationFile, Heads, Rows, open_evaluation, parse_heads
from contpeft.cli.options import DEFAULT_STORE, AsJson, Ref, StorePath, open_store
from contpeft.cli.output import Column, examples, print_json, print_lines, print_table

if TYPE_CHECKING:
    from contpeft.experiments.calibration import Calibration

__all__ = ["CALIBRATE_EXAMPLES", "calibrate"]

CALIBRATE_EXAMPLES: Final = examples(
    "contpeft store calibrate billing@3 --eval experiments/quickstart.yaml",
    "contpeft store calibrate both --eval eval.yaml --rows 500 --json",
)


def calibrate(
    ref: Ref,
    evaluation: EvaluationFile,
    store: StorePath = DEFAULT_STORE,
    rows: Rows = None,
    heads: Heads = None,
    as_json: AsJson = False,
) -> None:
    """Measure how sure a version is against how right it is.

    Half of the rows of the tasks that it answers fit the temperature, the other half measures the expected
    calibration error before and after. All is kept in the store. The temperature changes no answer of the
    version alone; it counts where its probabilities are put together with those of others.
    """
    from contpeft.experiments.calibration import calibrate as measure

    with open_store(store) as opened:
        asked = open_evaluation(opened, evaluation, rows, parse_heads(heads))
        found = measure(asked, opened, ref)
    print_json([asdict(each) for each in found]) if as_json else _print(found)


def _print(found: tuple[Calibration, ...]) -> None:
    number = "{:.4f}".format
    columns: tuple[Column[Calibration], ...] = (
        Column("answers", lambda each: each.answers),
        Column("tasks", lambda each: ", ".join(each.tasks)),
        Column("temperature", lambda each: each.temperature, "{:.3g}".format, right=True),
        Column("ece", lambda each: each.ece, number, right=True),
        Column("at temperature", lambda each: each.ece_scaled, number, right=True),
        Column("nll", lambda each: each.nll, number, right=True),
        Column("at temperature", lambda each: each.nll_scaled, number, right=True),
        Column("n", lambda each: each.measured, "{:,}".format, right=True),
    )
    print_table(found, columns)
    for each in found:
        sure = "too sure" if each.temperature > 1 else "not sure enough"
        print_lines([f"{each.answers} was {sure} on the {each.fitted:,} rows the temperature was fitted on"])
