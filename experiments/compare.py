"""Runs experiments over several seeds and puts what they measured beside each other.

usage: python experiments/compare.py FILE... [--seeds 0,1,2] [--ways a,b] [--out build/results] [--publish]

Every way of every FILE is run with every seed; ways that train the same share it. What is finished is kept:
by the store, where a run that was killed goes on, and by OUT, which gets one JSON file a stream with a record
for each way, answer, protocol and seed. A record there is not measured again unless its way or the file's
settings have become others. From the records come
``OUT/<stream>.md`` (a table a protocol) and ``OUT/<stream>.svg`` (ACC, the frozen bounds as lines), and with
``--publish`` the table that ``contpeft strategies recommend`` reads. A stream of texts whose folder is not
there is left out, and told so. Ways that ``tune.py`` has found a learning rate for are run with that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from records import Record, Results, headline
from tables import NUMBERS, write_page, write_picture

from contpeft.cli.quiet import quiet_libraries
from contpeft.digest import json_digest
from contpeft.experiments import Experiment, Progress, load_experiment, parse_experiment, run_experiment
from contpeft.experiments.config import read_document
from contpeft.experiments.report import RunResult, collect
from contpeft.experiments.report.result import ProtocolResult
from contpeft.experiments.sources import LocalFolder
from contpeft.store import AdapterStore
from contpeft.strategies import RECIPES
from contpeft.strategies.identity import recipe_digest
from contpeft.strategies.measured import Measured

PACKAGED = Path("contpeft/strategies/measured.json")


@dataclass(frozen=True)
class Setting:
    """One file's experiment as it is run once.

    Attributes:
        file: of the experiment.
        seed: draws rows, initial weights and batches.
        rate: what the file's learning rate is multiplied by.
        validation: the share of training rows that is held out and measured on in place of the test rows.
    """

    file: Path
    seed: int
    rate: float = 1.0
    validation: float | None = None

    @property
    def name(self) -> str:
        """The run's name in its store."""
        held_out = "" if self.validation is None else "-validation"
        rate = "" if self.rate == 1 else f"-rate-{self.rate:g}"
        return f"{self.file.stem}{held_out}{rate}-seed{self.seed}"

    def experiment(self, store: Path) -> Experiment:
        """Returns the experiment, in a store of the stream's own."""
        changes: dict[str, Any] = {"name": self.name, "seed": self.seed, "store": str(store / self.file.stem)}
        document = read_document(self.file)
        if self.rate != 1:
            arguments = document["module"]["init_args"]
            arguments["learning_rate"] = float(f"{arguments['learning_rate'] * self.rate:.6g}")
        if self.validation is not None:
            document["stream"]["validation"] = self.validation
        return parse_experiment(document | changes, str(self.file))

    def digests(self, experiment: Experiment) -> dict[str, tuple[str, str]]:
        """Returns, by way, the digest of its recipe and that of everything else but the seed."""
        settings = json_digest(experiment.identity() | {"name": self.file.stem, "seed": None})
        return {way: (recipe_digest(recipe), settings) for way, recipe in experiment.recipes.items()}


def main(told: argparse.Namespace) -> None:
    """Runs what is missing, way after way, and writes the pages."""
    quiet_libraries()
    for file in present(told.files):
        results = Results(told.out / f"{file.stem}.json")
        order = order_of(file)
        rates = {way: 1.0 for way in order} | tuned_rates(file)
        drop_stale(results, file, rates, told.store)
        for seed in told.seeds:
            for rate in dict.fromkeys(rates.values()):
                ways = [way for way in order if way in (told.ways or order) and rates[way] == rate]
                run_missing(results, Setting(file, seed, rate), ways, told.store)
        if results.records:
            write_page(results, order)
            write_picture(results, order)
    if told.publish:
        write_packaged(told.out)


def present(files: Iterable[Path]) -> Iterator[Path]:
    """Yields the files whose texts are there, and tells of the others."""
    for file in files:
        if lacks := lacking(file):
            print(f"{file.stem}: left out, no folder {lacks}; the file's first lines tell how to make it")
        else:
            yield file


def lacking(file: Path) -> str | None:
    """Returns the folder of texts that a file reads if it is not there."""
    source: Any = load_experiment(file).stream.source
    return source.path if isinstance(source, LocalFolder) and not Path(source.path).exists() else None


def tuned_rates(file: Path) -> dict[str, float]:
    """Returns, by way, what ``tune.py`` chose to multiply a file's learning rate by."""
    tuned = file.with_name("tuned.json")
    told = json.loads(tuned.read_text()) if tuned.exists() else {}
    return {way: each["rate"] for way, each in told.get(file.stem, {}).items()}


def drop_stale(
    results: Results, file: Path, rates: Mapping[str, float], store: Path, share: float | None = None
) -> None:
    """Takes out what was measured when a way or the file's settings were others, and tells of which ways."""
    wanted: dict[str, tuple[str, str]] = {}
    for rate in set(rates.values()):
        setting = Setting(file, 0, rate, share)
        digests = setting.digests(setting.experiment(store))
        wanted |= {way: digests[way] for way in rates if rates[way] == rate}
    if dropped := results.retain(wanted):
        print(f"{results.path.stem}: what was measured otherwise is dropped: {', '.join(sorted(dropped))}")


def run_missing(results: Results, setting: Setting, ways: Iterable[str], store: Path) -> None:
    """Runs the ways that have no record yet, in one run that shares their fits."""
    experiment = setting.experiment(store)
    digests = setting.digests(experiment)
    missing = [way for way in ways if not results.has(way, setting.seed, *digests[way])]
    if not missing:
        return

    def record_finished(at: Progress) -> None:
        if at.phase == "start":
            print(f"{setting.name}: {at.way}, {at.task}", flush=True)
        if at.phase in ("finished", "kept") and at.step == at.steps - 1:
            found = collect(AdapterStore(experiment.store), experiment.name)
            results.add(records_of(setting, found, at.way, *digests[at.way]))

    run_experiment(experiment.only(*missing), record_finished)


def records_of(setting: Setting, run: RunResult, way: str, recipe: str, settings: str) -> list[Record]:
    """Returns a record for each answer and protocol of a way."""
    own = [row for row in run.lineage if row.way == way]
    tasks = len(run.tasks)
    return [
        Record(
            stream=setting.file.stem,
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
            rate=setting.rate,
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
                and each.protocol == headline(each.scenario)
                and each.numbers["acc"] is not None
            ]
            if chosen:
                acc = {each.seed: round(each.numbers["acc"] or 0.0, 4) for each in chosen}
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
