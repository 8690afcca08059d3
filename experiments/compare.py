"""Runs experiments over several seeds and puts what they measured beside each other.

usage: python experiments/compare.py FILE... [--seeds 0,1,2] [--ways a,b] [--out build/results] [--publish]

Every way of every FILE is run with every seed; ways that train the same share it. What is finished is kept:
by the store, where a run that was killed goes on, and by OUT, which gets one JSON file a stream with a record
for each way, answer, protocol and seed. A record there is not measured again unless its way or the file's
settings have become others. From the records come
``OUT/<stream>.md`` (a table a protocol) and ``OUT/<stream>.svg`` (ACC, the frozen bounds as lines), and with
``--publish`` the table that ``contpeft strategies recommend`` reads. A stream of texts whose folder is not
there is left out, and told so.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib.pyplot as plt
from scipy.stats import t as student

from contpeft.cli.quiet import quiet_libraries
from contpeft.digest import json_digest
from contpeft.experiments import Experiment, Progress, load_experiment, run_experiment
from contpeft.experiments.report import RunResult, collect
from contpeft.experiments.report.result import ProtocolResult
from contpeft.experiments.sources import LocalFolder
from contpeft.store import AdapterStore
from contpeft.strategies import RECIPES
from contpeft.strategies.identity import recipe_digest
from contpeft.strategies.measured import Measured

PACKAGED = Path("contpeft/strategies/measured.json")
NUMBERS = {
    "acc": "ACC",
    "bwt": "BWT",
    "forgetting": "forgetting",
    "learning_accuracy": "LA",
    "task_hits": "task hits",
}
SEQUENCES = ("sequential", "sequential-local")
HEADLINE = {"task-incremental": "task_aware"}


@dataclass(frozen=True)
class Record:
    """What one way scored on one stream with one seed, under one protocol.

    Attributes:
        stream: name of the stream.
        scenario: what was known about a row's task.
        way: the strategy.
        answer: which of its answers.
        protocol: which classes could be answered.
        seed: the run's.
        recipe: digest of the recipe, so that a changed one is measured anew.
        settings: digest of the other settings of the experiment, for the same end.
        numbers: the matrix in numbers, 0 to 1, and how often the task was inferred rightly.
        seconds: of all its steps, training and measuring; of what ways share, features and equal scores count
            for the first alone.
        parameters: trained and stored, the mean over tasks.
        bytes: stored, the mean over tasks.
    """

    stream: str
    scenario: str
    way: str
    answer: str
    protocol: str
    seed: int
    recipe: str
    settings: str
    numbers: dict[str, float | None]
    seconds: float
    parameters: float
    bytes: float


class Results:
    """The records of one stream, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = self._read()

    def _read(self) -> list[Record]:
        told = json.loads(self.path.read_text()) if self.path.exists() else []
        return [Record(**each) for each in told]

    def has(self, way: str, seed: int, recipe: str, settings: str) -> bool:
        """Returns whether a way was measured as this recipe, with these settings."""
        wanted = (way, seed, recipe, settings)
        return any((each.way, each.seed, each.recipe, each.settings) == wanted for each in self.records)

    def add(self, new: Iterable[Record]) -> None:
        """Puts records in the place of those of the same way and seed, and writes the file."""
        added = list(new)
        replaced = {(each.way, each.seed) for each in added}
        # Read anew: another process may have measured other ways meanwhile.
        kept = [each for each in self._read() if (each.way, each.seed) not in replaced]
        self.records = sorted(
            [*kept, *added], key=lambda each: (each.seed, each.way, each.protocol, each.answer)
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")  # whoever is killed while writing leaves the old file
        partial.write_text(json.dumps([asdict(each) for each in self.records], indent=1) + "\n")
        partial.replace(self.path)


def main(told: argparse.Namespace) -> None:
    """Runs what is missing, way after way, and writes the pages."""
    quiet_libraries()
    for file in told.files:
        if lacks := lacking(file):
            print(f"{file.stem}: left out, no folder {lacks}; the file's first lines tell how to make it")
            continue
        for seed in told.seeds:
            run_missing(file, seed, told)
        results = Results(told.out / f"{file.stem}.json")
        write_page(results, order_of(file))
        write_picture(results, order_of(file))
    if told.publish:
        write_packaged(told.out)


def lacking(file: Path) -> str | None:
    """Returns the folder of texts that a file reads if it is not there."""
    source: Any = load_experiment(file).stream.source
    return source.path if isinstance(source, LocalFolder) and not Path(source.path).exists() else None


def run_missing(file: Path, seed: int, told: argparse.Namespace) -> None:
    """Runs the ways of one file with one seed that have no record yet, in one run that shares their fits."""
    results = Results(told.out / f"{file.stem}.json")
    experiment = seeded(file, seed, told.store)
    settings = json_digest(experiment.identity() | {"name": file.stem, "seed": None})
    digests = {way: recipe_digest(recipe) for way, recipe in experiment.recipes.items()}
    missing = [
        way
        for way, digest in digests.items()
        if way in (told.ways or digests) and not results.has(way, seed, digest, settings)
    ]
    if not missing:
        return

    def record_finished(at: Progress) -> None:
        if at.phase == "start":
            print(f"{file.stem} seed {seed}: {at.way}, {at.task}", flush=True)
        if at.phase in ("finished", "kept") and at.step == at.steps - 1:
            found = collect(AdapterStore(experiment.store), experiment.name)
            results.add(records(file.stem, found, at.way, digests[at.way], settings))

    run_experiment(experiment.only(*missing), record_finished)


def seeded(file: Path, seed: int, store: Path) -> Experiment:
    """Returns a file's experiment with a seed, in a store of its own stream."""
    return load_experiment(
        file, {"name": f"{file.stem}-seed{seed}", "seed": seed, "store": str(store / file.stem)}
    )


def records(stream: str, run: RunResult, way: str, recipe: str, settings: str) -> list[Record]:
    """Returns a record for each answer and protocol of a way."""
    own = [row for row in run.lineage if row.way == way]
    tasks = len(run.tasks)
    return [
        Record(
            stream=stream,
            scenario=run.scenario,
            way=way,
            answer=each.answer,
            protocol=protocol,
            seed=run.seed,
            recipe=recipe,
            settings=settings,
            numbers=numbers_of(scored),
            seconds=round(each.seconds or 0.0, 1),
            parameters=sum(row.parameters for row in own) / tasks,
            bytes=sum(row.bytes for row in own) / tasks,
        )
        for each in run.ways
        if each.way == way
        for protocol, scored in each.protocols.items()
    ]


def numbers_of(scored: ProtocolResult) -> dict[str, float | None]:
    """Returns the numbers that tables show."""
    told = scored.summary.to_json() | {"task_hits": scored.task_hits}
    return {key: told[key] for key in NUMBERS}


def order_of(file: Path) -> list[str]:
    """Returns the ways of a file in their order."""
    return list(load_experiment(file).recipes)


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
        titles = ["way", *NUMBERS.values(), "parameters a task", "kB a task", "seconds", "to a sequence's"]
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
    protocol = HEADLINE.get(results.records[0].scenario, "all_classes")
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
    return f"| {' | '.join(cells)} |"


def shown(values: Sequence[float]) -> str:
    """Returns a mean in points, with its interval."""
    if not values:
        return "-"
    mean, half = interval(values)
    return f"{100 * mean:.1f}" if half is None else f"{100 * mean:.1f} ± {100 * half:.1f}"


def write_packaged(out: Path) -> None:
    """Writes the table that ``contpeft strategies recommend`` reads.

    Only recipes as the catalogue has them: not a file's own variations, nor a recipe that was changed since.
    """
    today = {way: recipe_digest(recipe) for way, recipe in RECIPES.items()}
    rows: list[dict[str, Any]] = []
    for path in sorted(out.glob("*.json")):
        found = [each for each in Results(path).records if each.recipe == today.get(each.way)]
        for way, answer in dict.fromkeys((each.way, each.answer) for each in found):
            chosen = [
                each
                for each in found
                if (each.way, each.answer) == (way, answer)
                and each.protocol == HEADLINE.get(each.scenario, "all_classes")
                and each.numbers["acc"] is not None
            ]
            if chosen:
                acc = tuple(round(each.numbers["acc"] or 0.0, 4) for each in chosen)
                scenario: Any = chosen[0].scenario
                rows.append(Measured(path.stem, scenario, way, answer, acc).to_json())
    PACKAGED.write_text("[\n" + ",\n".join(json.dumps(each) for each in rows) + "\n]\n" if rows else "[]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument(
        "--seeds", type=lambda text: [int(each) for each in text.split(",")], default=[0, 1, 2]
    )
    parser.add_argument("--ways", type=lambda text: text.split(","), default=None, help="these alone")
    parser.add_argument("--store", type=Path, default=Path("build/comparison"))
    parser.add_argument("--out", type=Path, default=Path("build/results"))
    parser.add_argument("--publish", action="store_true", help="write the packaged table, too")
    main(parser.parse_args())
