"""Tables and pictures of the records of one stream, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

import matplotlib.pyplot as plt
from records import Record, Results, headline
from scipy.stats import t as student

NUMBERS = {
    "acc": "ACC",
    "bwt": "BWT",
    "forgetting": "forgetting",
    "learning_accuracy": "LA",
    "task_hits": "task hits",
}
SEQUENCES = ("sequential", "sequential-local")


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and half of its 95 % interval (Student's t); None for a single value."""
    if len(values) < 2:
        return fmean(values), None
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return fmean(values), half


def write_page(results: Results, order: Sequence[str]) -> None:
    """Writes one table a protocol, the ways in the file's order."""
    lines: list[str] = []
    for protocol in dict.fromkeys(each.protocol for each in results.records):
        chosen = [each for each in results.records if each.protocol == protocol]
        keys = in_order(chosen, order)
        seeds = sorted({each.seed for each in chosen})
        lines += [f"**{protocol}**, seeds {', '.join(map(str, seeds))}", ""]
        titles = [
            "way",
            *NUMBERS.values(),
            "parameters a task",
            "kB a task",
            "seconds",
            "to a sequence's",
            "rate",
        ]
        lines += [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
        plain = [each for each in chosen if each.way in SEQUENCES]
        lines += [row(key, [e for e in chosen if (e.way, e.answer) == key], plain) for key in keys]
        lines.append("")
    results.path.with_suffix(".md").write_text("\n".join(lines))


def in_order(records: Sequence[Record], order: Sequence[str]) -> list[tuple[str, str]]:
    """Returns ways and answers as the file has them, the main answer of each way first."""
    return sorted(
        dict.fromkeys((each.way, each.answer) for each in records),
        key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key[1] != "main"),
    )


def write_picture(results: Results, order: Sequence[str]) -> None:
    """Draws the mean ACC of every answer with its interval; frozen bounds are lines for the eye."""
    protocol = headline(results.records[0].scenario)
    chosen = [each for each in results.records if each.protocol == protocol]
    keys = in_order(chosen, order)[::-1]
    figure, axes = plt.subplots(figsize=(7, 1 + 0.3 * len(keys)), layout="constrained")
    for place, key in enumerate(keys):
        values = [each.numbers["acc"] or 0.0 for each in chosen if (each.way, each.answer) == key]
        mean, half = interval(values)
        frozen = "frozen" in key[0]
        axes.errorbar(
            100 * mean, place, xerr=100 * (half or 0.0), fmt="o", color="#888" if frozen else "#1f5fa8"
        )
        if frozen:
            axes.axvline(100 * mean, color="#ccc", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(keys)), [label(key) for key in keys])
    axes.set_xlabel("ACC, %")
    axes.set_title(f"{results.path.stem}, {protocol.replace('_', ' ')}")
    figure.savefig(results.path.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def label(key: tuple[str, str]) -> str:
    """Returns what a way's answer is called in tables and pictures."""
    return key[0] if key[1] == "main" else f"{key[0]}: {key[1]}"


def row(key: tuple[str, str], chosen: Sequence[Record], plain: Sequence[Record]) -> str:
    """Returns one line of a table: means over seeds, with the 95 % interval where there are several.

    Args:
        key: the way and its answer.
        chosen: its records.
        plain: those of training on and on without a method, which time is compared with seed by seed.
    """
    cells = [label(key)]
    for number in NUMBERS:
        values = [value for each in chosen if (value := each.numbers.get(number)) is not None]
        cells.append(shown(values))
    cells.append(f"{fmean(each.parameters for each in chosen):,.0f}")
    cells.append(f"{fmean(each.bytes for each in chosen) / 1000:,.0f}")
    cells.append(f"{fmean(each.seconds for each in chosen):,.0f}")
    ratios = [each.seconds / one.seconds for each in chosen for one in plain if one.seed == each.seed]
    cells.append(f"{fmean(ratios):.2f}" if ratios else "-")
    cells.append(" / ".join(f"{rate:g}" for rate in sorted({each.rate for each in chosen})))
    return f"| {' | '.join(cells)} |"


def shown(values: Sequence[float]) -> str:
    """Returns a mean in points, with its interval."""
    if not values:
        return "-"
    mean, half = interval(values)
    return f"{100 * mean:.1f}" if half is None else f"{100 * mean:.1f} ± {100 * half:.1f}"
