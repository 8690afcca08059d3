"""Chooses a learning rate for each way on rows held out of the training rows, the same budget for every way.

usage: python experiments/tune.py FILE... [--ways a,b] [--out build/results] [--store build/comparison]

Every way that trains is run at each of RATES times the file's learning rate, with one seed, and measured on
a share of the training rows that it does not see; no test row is read. The rate with the best ACC goes into
``tuned.json`` beside the file, with all that was measured; ``compare.py`` then runs the way with it. What is
finished is kept in ``OUT/tuning``, and a way is in the table once all its rates are measured.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from compare import Setting, drop_stale, present, run_missing
from records import Results, headline

from contpeft.cli.quiet import quiet_libraries
from contpeft.experiments import load_experiment

RATES = (1.0, 0.3, 3.0)
SHARE = 0.2
SEED = 0


def main(told: argparse.Namespace) -> None:
    """Runs what is missing and writes what was chosen."""
    quiet_libraries()
    for file in present(told.files):
        recipes = load_experiment(file).recipes
        ways = [way for way in recipes if way in (told.ways or recipes) and recipes[way].init.trains(0)]
        measured: dict[float, dict[str, float]] = {}
        for rate in RATES:
            results = Results(told.out / "tuning" / f"{file.stem}-rate-{rate:g}.json")
            drop_stale(results, file, dict.fromkeys(recipes, rate), told.store, SHARE)
            run_missing(results, Setting(file, SEED, rate, SHARE), ways, told.store)
            measured[rate] = accuracies(results)
        write_chosen(file, measured)


def accuracies(results: Results) -> dict[str, float]:
    """Returns the ACC of each way's own answer, under the protocol that stands for the stream."""
    return {
        each.way: acc
        for each in results.records
        if each.answer == "main" and each.protocol == headline(each.scenario)
        if (acc := each.numbers["acc"]) is not None
    }


def write_chosen(file: Path, measured: dict[float, dict[str, float]]) -> None:
    """Writes the best rate of each way that was measured at every rate; of equals the first of RATES."""
    tuned = file.with_name("tuned.json")
    told = json.loads(tuned.read_text()) if tuned.exists() else {}
    told[file.stem] = {
        way: {
            "rate": max(measured, key=lambda rate: measured[rate][way]),
            "validation": {f"{rate:g}": round(acc[way], 4) for rate, acc in measured.items()},
        }
        for way in sorted(set.intersection(*map(set, measured.values())))
    }
    tuned.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=None, help="these alone")
    parser.add_argument("--store", type=Path, default=Path("build/comparison"))
    parser.add_argument("--out", type=Path, default=Path("build/results"))
    main(parser.parse_args())
