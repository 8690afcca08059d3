"""How well merged adapters do what each of their parts does: every rule, on real adapters.

usage: python experiments/merging_quality.py --store STORE [--way WAY] [--out DIR] [--rules sum,tsv,...]

Trains one adapter per domain of CLINC150 (``clinc150.yaml``; ``prepare_clinc150.py`` makes its data) for
each of three seeds, merges all ten by every rule at every rank, and measures the merge on each domain with
that domain's own head, the task known. Scores are told as shares of what the domain's own adapter scores.
The heads are linear from a random start, as in most papers, or with ``--way isolated`` cosine heads from
class means, on which adapters make little difference. ``scaled`` multiplies the merge by one number, picked
on validation rows; ``searched`` takes the best of twenty weightings, tried on them too. Everything measured
is kept in the store: a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import torch
import yaml

from contpeft import AdapterStore
from contpeft.adapters import AdaptedModel, measure_moments
from contpeft.errors import NotFoundError
from contpeft.experiments import Experiment, load_experiment, run_experiment
from contpeft.experiments.config import load_evaluation
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.search import best_candidate, search
from contpeft.experiments.search_space import Space
from contpeft.merging import RULES
from contpeft.spec import AdapterState, Parent, Single
from contpeft.store import Request

CONFIG = Path(__file__).parent / "clinc150.yaml"
SEEDS, RANKS, SCALES = (0, 1, 2), ("8", "16", "32", "full"), (0.35, 0.6, 1.0, 1.7)
TEST_ROWS, VALIDATION_ROWS, MOMENT_ROWS = 50, 10, 150
TRIALS = 20
LEFT_OUT = ("slerp",)  # between two adapters alone


@dataclass(frozen=True)
class Cell:
    """A rule at a rank and seed: each task's score as a share of its own adapter's."""

    rule: str
    rank: str
    seed: int
    shares: tuple[float, ...]
    scale: float = 1.0


def main() -> None:
    """Trains what is missing, measures what is missing, writes the table and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--way", default="isolated-linear", choices=("isolated", "isolated-linear"))
    parser.add_argument("--out", default="reports/merging")
    parser.add_argument("--rules", default=",".join(name for name in RULES if name not in LEFT_OUT))
    parser.add_argument("--searched", default="sum,ties,tsv")
    told = parser.parse_args()
    torch.set_num_threads(1)
    cells: list[Cell] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            bench = Bench(told.store, told.way, seed, Path(folder))
            cells.extend(measured(bench, told.rules.split(",")))
            cells.extend(searched(bench, told.searched.split(",")))
    out = Path(told.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "merging.json").write_text(json.dumps([vars(cell) for cell in cells], indent=1))
    (out / "merging.md").write_text(table(cells))
    picture(cells, out / "merging.png")
    print(table(cells))


class Bench:
    """One seed: its ten adapters, and the rows they are measured on."""

    def __init__(self, store: str, way: str, seed: int, folder: Path) -> None:
        self.seed = seed
        self.store = AdapterStore(store)
        overrides = {"name": f"clinc150-{seed}", "seed": seed, "store": store, "strategies": [way]}
        self.experiment = load_experiment(CONFIG, overrides)
        run_experiment(self.experiment)
        self.refs = [f"clinc150-{seed}.{way}.{task}@1" for task in self.tasks()]
        self.test = Evaluation(self.evaluation_of(folder, "test"), self.store, rows=TEST_ROWS)
        self.validation = Evaluation(self.evaluation_of(folder, "val"), self.store, rows=VALIDATION_ROWS)
        self.own = [self.test.score(ref, task) for ref, task in zip(self.refs, self.test.tasks, strict=True)]
        for ref in self.refs:
            self.know(ref)

    def tasks(self) -> list[str]:
        return [str(name) for name in yaml.safe_load(CONFIG.read_text())["stream"]["order"]]

    def evaluation_of(self, folder: Path, split: str) -> Experiment:
        document = yaml.safe_load(CONFIG.read_text())
        document["stream"]["source"]["init_args"]["test"] = split
        document["seed"] = self.seed
        path = folder / f"{split}-{self.seed}.yaml"
        path.write_text(yaml.safe_dump(document))
        return load_evaluation(path)

    def know(self, ref: str) -> None:
        """Stores the moments of an adapter on its own training rows, once."""
        name = ref.replace("@", ".") + ".moments"
        try:
            self.store.show(name)
        except NotFoundError:
            stream = self.experiment.stream.build(self.seed)
            data = stream[self.refs.index(ref)].train.select(range(MOMENT_ROWS))
            module, _ = self.experiment.make([])
            adapted = AdaptedModel.of(module)
            version, state = self.store.show(ref), self.store.load(ref)
            with adapted.applied(Single(ref), lambda _: (version, state)):
                classes = state.head.classes if state.head else ()

                def loss(rows: range) -> torch.Tensor:
                    batch = module.collate([data.inputs[row] for row in rows])
                    labels = torch.tensor([classes.index(data.labels[row]) for row in rows])
                    return torch.nn.functional.cross_entropy(module(batch), labels)

                moments = measure_moments(
                    adapted, [range(i, i + 50) for i in range(0, MOMENT_ROWS, 50)], loss
                )
            self.store.register(name, moments, base=version.base, parents=[Parent(version.ref, "frozen")])

    def shares(self, state: AdapterState) -> tuple[float, ...]:
        with self.test.guest(state, tuple(self.refs)) as ref:
            scores = [self.test.score(ref, task) for task in self.test.tasks]
        return tuple(score / own for score, own in zip(scores, self.own, strict=True))

    def best_scale(self, state: AdapterState) -> float:
        """Returns the factor with the best mean validation score."""

        def mean(scale: float) -> float:
            with self.validation.guest(scaled(state, scale), tuple(self.refs)) as ref:
                return statistics.fmean(self.validation.score(ref, task) for task in self.validation.tasks)

        return max(SCALES, key=mean)


def measured(bench: Bench, rules: list[str]) -> Iterator[Cell]:
    bare = bench.store.load(bench.refs[0])
    yield Cell("base alone", "-", bench.seed, bench.shares(scaled(bare, 0.0)))
    for rule in rules:
        for rank in RANKS:
            asked = "80" if rank == "full" and RULES[rule]().dense else rank
            state = bench.store.fusion.candidate(Request(bench.refs, rule=rule, rank=asked)).state
            yield Cell(rule, rank, bench.seed, bench.shares(state))
            if rank == "full":
                scale = bench.best_scale(state)
                yield Cell(rule, "scaled", bench.seed, bench.shares(scaled(state, scale)), scale)
        print(f"seed {bench.seed}: {rule}", flush=True)


def searched(bench: Bench, rules: list[str]) -> Iterator[Cell]:
    """Yields the merges whose weights a search on validation rows found best."""
    for rule in rules:
        space = Space(tuple(bench.refs), rules=(rule,), ranks=("full",))
        found = search(bench.validation, bench.store, space, trials=TRIALS)
        state = best_candidate(bench.store, space, found).state
        yield Cell(rule, "searched", bench.seed, bench.shares(state))


def scaled(state: AdapterState, scale: float) -> AdapterState:
    """Returns an adapter whose updates are multiplied by a number."""
    config = dict(state.config)
    config["lora_alpha"] = scale * config["lora_alpha"]
    config["alpha_pattern"] = {key: scale * alpha for key, alpha in config["alpha_pattern"].items()}
    tensors = {key: value for key, value in state.tensors.items() if not key.startswith("head.")}
    return replace(state, config=config, tensors=tensors, head=None)


def summary(cells: list[Cell], rule: str, rank: str) -> tuple[float, float, float] | None:
    """Returns mean, worst task and spread over seeds, in percent."""
    found = [cell.shares for cell in cells if (cell.rule, cell.rank) == (rule, rank)]
    if not found:
        return None
    means = [100 * statistics.fmean(shares) for shares in found]
    worst = statistics.fmean(100 * min(shares) for shares in found)
    return statistics.fmean(means), worst, statistics.pstdev(means)


def table(cells: list[Cell]) -> str:
    columns = [*RANKS, "scaled", "searched"]
    lines = [f"| rule | {' | '.join(columns)} | scale |", f"| --- |{' ---: |' * (len(columns) + 1)}"]
    rules = list(dict.fromkeys(cell.rule for cell in cells))
    key = {rule: summary(cells, rule, "full") or (0.0, 0.0, 0.0) for rule in rules}
    for rule in sorted(rules, key=lambda rule: -key[rule][0]):
        found = [summary(cells, rule, column) for column in (columns if rule in RULES else ["-"])]
        shown = [f"{cell[0]:.1f} ({cell[1]:.0f}) ± {cell[2]:.1f}" if cell else "-" for cell in found]
        scales = [f"{cell.scale:g}" for cell in cells if (cell.rule, cell.rank) == (rule, "scaled")]
        lines.append(f"| `{rule}` | {' | '.join(shown)} | {', '.join(scales)} |")
    return "\n".join(lines) + "\n"


def picture(cells: list[Cell], path: Path) -> None:
    """Draws mean and worst task of every rule at full rank, as merged and scaled."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rules = [rule for rule in RULES if summary(cells, rule, "full")]
    rules.sort(key=lambda rule: (summary(cells, rule, "full") or (0.0,))[0])
    figure, axes = plt.subplots(figsize=(8, 0.32 * len(rules) + 1.2), layout="constrained")
    places = np.arange(len(rules))
    for column, shift, colour in (("full", 0.18, "#4269d0"), ("scaled", -0.18, "#ff725c")):
        found = [summary(cells, rule, column) or (np.nan,) * 3 for rule in rules]
        label = {"full": "as merged", "scaled": "scaled on validation rows"}[column]
        axes.errorbar(
            [f[0] for f in found],
            places + shift,
            xerr=[f[2] for f in found],
            fmt="o",
            color=colour,
            label=label,
        )
        axes.plot([f[1] for f in found], places + shift, "|", color=colour, markersize=9)
    base = summary(cells, "base alone", "-")
    if base:
        axes.axvline(base[0], color="grey", linestyle=":", label="no adapter")
    axes.set_yticks(places, rules)
    axes.set_xlabel("accuracy as % of each task's own adapter: mean (dot, spread of seeds), worst task (bar)")
    axes.legend(loc="upper left", frameon=False)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
