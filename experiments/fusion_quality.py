"""What fusing adapters is good for: small tasks beside a large related one.

usage: python experiments/fusion_quality.py --store STORE [--out DIR] [--methods pfeiffer,lora] [--seeds 0,1]

The tasks are VADER's domains, positive or negative: films with 1,500 sentences to train on, and tweets,
products and editorials with 300 each. Every domain gets an adapter (stage one); then each small domain gets

- ``single``: its own adapter; ``adamix``: one trained as AdaMix; both also three times as long;
- ``fused``: attention over all four adapters, trained on the small domain (stage two);
- ``averaged``, ``merged``: the outputs of all four averaged, or the four merged into one (``ties`` and
  ``iso-c``; bottlenecks: the mean of their weights);
- ``films``: the large domain's adapter; ``base``: no adapter.

The last four have no head of their own, so a logistic regression on their features answers. The learning
rate of each way is the better of two on validation rows of tweets at seed 0. Fits and scores are kept: a
second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader

from contpeft import AdapterSpec, AdapterStore, Base, ContinualAdapter, FusionStage, Single, average
from contpeft.adapters import AdaptedModel
from contpeft.errors import NotFoundError
from contpeft.experiments import TextClassifier
from contpeft.experiments.sources import Vader
from contpeft.spec import Part
from contpeft.store import Request
from contpeft.strategies.features import Features

LARGE, SMALL = "films", ("tweets", "products", "editorials")
ROWS = {LARGE: 1500, **dict.fromkeys(SMALL, 300)}
EPOCHS = {LARGE: 1, **dict.fromkeys(SMALL, 4)}
VALIDATION, TEST = 200, 400
LABELS = ("negative", "positive")
RATES = {"single": (2e-3, 7e-4), "adamix": (2e-3, 7e-4), "fused": (1e-3, 3e-4)}
SPECS = {"pfeiffer": AdapterSpec("pfeiffer", reduction_factor=16), "lora": AdapterSpec("lora", r=8)}
ADAMIX = AdapterSpec("adamix", reduction_factor=16, consistency=1.0)
LONGER = 12  # epochs: of four experts each sees a quarter of the batches
RULES = {"pfeiffer": ("average",), "lora": ("ties", "iso-c")}


@dataclass(frozen=True)
class Rows:
    """Sentences of one domain, drawn by a seed."""

    texts: Sequence[str]
    labels: Sequence[str]

    def cut(self, start: int, count: int) -> Rows:
        return Rows(self.texts[start : start + count], self.labels[start : start + count])


class Domains:
    """The rows to train, validate and test on."""

    def __init__(self, seed: int) -> None:
        data = Vader().load()
        self.train, self.validation, self.test = {}, {}, {}
        for domain, count in ROWS.items():
            pool = self._drawn(data.train, data.tasks, domain, seed)
            self.train[domain] = pool.cut(0, count)
            self.validation[domain] = pool.cut(count, VALIDATION)
            self.test[domain] = self._drawn(data.test, data.tasks, domain, 0).cut(0, TEST)

    def _drawn(self, examples: Any, tasks: Any, domain: str, seed: int) -> Rows:
        own = [row for row, row_id in enumerate(examples.ids) if tasks[row_id] == domain]
        order = np.random.default_rng(seed).permutation(own)
        return Rows([examples.inputs[r] for r in order], [examples.labels[r] for r in order])


class Bench:
    """One method and seed."""

    def __init__(
        self, store: AdapterStore, method: str, seed: int, scores: dict[str, float], save: Any
    ) -> None:
        self.store, self.method, self.seed = store, method, seed
        self.domains = Domains(seed)
        self._scores, self._save = scores, save

    def measure(self, rates: dict[str, float]) -> None:
        """Trains and scores what is missing; at seed 0 it picks the rates."""
        own = {domain: self.fit("single", domain, RATES["single"][0]) for domain in (LARGE,)}
        for domain in SMALL:
            own[domain] = self.best("single", domain, rates, SPECS[self.method])
        everyone = [own[LARGE], *(own[domain] for domain in SMALL)]
        for domain in SMALL:
            self.score("single", domain, Single(own[domain]))
            if self.method == "pfeiffer":
                adamix = self.best("adamix", domain, rates, ADAMIX)
                self.score("adamix", domain, Single(adamix))
                for way, made in (("single", SPECS["pfeiffer"]), ("adamix", ADAMIX)):
                    longer = self.fit(way, domain, rates[f"pfeiffer/{way}"], made, epochs=LONGER)
                    self.score(f"{way}, {LONGER} epochs", domain, Single(longer))
            fused = self.best("fused", domain, rates, over=everyone)
            self.score("fused", domain, Single(fused))
            self.score("averaged", domain, average(*everyone), refit=True)
            for rule in RULES[self.method]:
                self.score(f"merged ({rule})", domain, Single(self.merged(rule, everyone)), refit=True)
            self.score("films", domain, Single(own[LARGE]), refit=True)
            self.score("base", domain, Base(), refit=True)

    def best(self, way: str, domain: str, rates: dict[str, float], spec: Any = None, over: Any = ()) -> str:
        """Returns the version trained at the rate that is best on the first validation rows met."""
        key = f"{self.method}/{way}"
        if key not in rates:
            tried = {rate: self.value(self.fit(way, domain, rate, spec, over), domain) for rate in RATES[way]}
            rates[key] = max(tried, key=lambda rate: tried[rate])
        return self.fit(way, domain, rates[key], spec, over)

    def fit(
        self,
        way: str,
        domain: str,
        rate: float,
        spec: Any = None,
        over: Sequence[str] = (),
        epochs: int | None = None,
    ) -> str:
        """Returns a version, trained if it is not in the store."""
        name = f"{self.method}.{way}.{domain}.{self.seed}.{rate:g}" + (f".{epochs}" if epochs else "")
        found = f"{name}-fusion" if over else name
        try:
            return self.store.show(found).ref
        except NotFoundError:
            pass
        L.seed_everything(self.seed, verbose=False)
        module = self.module(rate)
        callback: L.Callback = (
            FusionStage(self.store, name, over=over)
            if over
            else ContinualAdapter(self.store, name, spec or SPECS[self.method])
        )
        quiet: dict[str, Any] = dict(logger=False, enable_progress_bar=False, enable_checkpointing=False)
        quiet["enable_model_summary"] = False
        trainer = L.Trainer(
            max_epochs=epochs or EPOCHS[domain], accelerator="cpu", callbacks=[callback], **quiet
        )
        trainer.fit(module, self.loader(module, self.domains.train[domain]))
        return self.store.show(found).ref

    def merged(self, rule: str, refs: Sequence[str]) -> str:
        name = f"{self.method}.merged.{rule}.{self.seed}"
        try:
            return self.store.show(name).ref
        except NotFoundError:
            return self.store.fusion.fuse(Request(list(refs), rule=rule), name).ref

    def module(self, rate: float) -> Any:
        module = TextClassifier(max_length=24, learning_rate=rate)
        module.head = nn.Linear(384, len(LABELS))
        return module

    def loader(self, module: Any, rows: Rows) -> DataLoader[Any]:
        def collate(batch: list[int]) -> dict[str, torch.Tensor]:
            labels = torch.tensor([LABELS.index(rows.labels[row]) for row in batch])
            return {**module.collate([rows.texts[row] for row in batch]), "labels": labels}

        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            range(len(rows.texts)),
            batch_size=32,
            shuffle=True,
            collate_fn=collate,
            generator=generator,  # type: ignore[arg-type]
        )

    def value(self, ref: str, domain: str) -> float:
        """Returns the accuracy of a version on validation rows."""
        return self._kept(
            f"validation/{ref}", lambda: self._accuracy(Single(ref), self.domains.validation[domain])
        )

    def score(self, way: str, domain: str, part: Part | Base, refit: bool = False) -> None:
        """Keeps the accuracy of a composition on test rows."""
        rows = self.domains.test[domain]

        def measure() -> float:
            return self._refitted(part, domain, rows) if refit else self._accuracy(part, rows)

        value = self._kept(f"{self.method}/{self.seed}/{domain}/{way}", measure)
        print(f"{self.method} seed {self.seed} {domain:10s} {way:24s} {value:.3f}", flush=True)

    def _kept(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self._scores:
            self._scores[key] = measure()
            self._save()
        return self._scores[key]

    def _accuracy(self, part: Part | Base, rows: Rows) -> float:
        module = self.module(1e-3)
        adapted = AdaptedModel.of(module)
        with adapted.applied(part, lambda ref: (self.store.show(ref), self.store.load(ref))):
            best = Features(adapted, 64).scores(rows.texts).argmax(1).tolist()
        return statistics.fmean(LABELS[b] == label for b, label in zip(best, rows.labels, strict=True))

    def _refitted(self, part: Part | Base, domain: str, rows: Rows) -> float:
        adapted = AdaptedModel.of(self.module(1e-3))
        with adapted.applied(part, lambda ref: (self.store.show(ref), self.store.load(ref))):
            features = Features(adapted, 64)
            train = self.domains.train[domain]
            x, y = (features.current(each.texts).numpy() for each in (train, rows))
        told = LogisticRegression(max_iter=2000).fit(x, train.labels)
        return float(told.score(y, rows.labels))


def table(scores: dict[str, float], methods: Sequence[str], seeds: Sequence[int]) -> str:
    """Returns mean and spread over seeds, a row a way."""
    lines = ["| adapter | way | " + " | ".join(SMALL) + " | mean | spread |", "| --- | --- |" + " ---: |" * 5]
    for method in methods:
        ways = dict.fromkeys(k.split("/", 3)[3] for k in scores if k.startswith(f"{method}/{seeds[0]}/"))
        for way in ways:
            cells = [[100 * scores[f"{method}/{s}/{d}/{way}"] for d in SMALL] for s in seeds]
            means = [statistics.fmean(row) for row in cells]
            each = [f"{statistics.fmean(column):.1f}" for column in zip(*cells, strict=True)]
            told = [
                method,
                way,
                *each,
                f"{statistics.fmean(means):.1f}",
                f"{statistics.stdev(means):.1f}" if len(means) > 1 else "-",
            ]
            lines.append(f"| {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Trains what is missing, measures what is missing, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True)
    parser.add_argument("--out", default="reports/fusion")
    parser.add_argument("--methods", default="pfeiffer,lora")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    methods, seeds = told.methods.split(","), [int(seed) for seed in told.seeds.split(",")]
    out = Path(told.out)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "fusion.json"
    known = json.loads(kept.read_text()) if kept.exists() else {"scores": {}, "rates": {}}

    def save() -> None:
        kept.write_text(json.dumps(known, indent=1))

    store = AdapterStore(told.store)
    try:
        for method in methods:
            for seed in seeds:
                Bench(store, method, seed, known["scores"], save).measure(known["rates"])
                save()
    finally:
        store.close()
    (out / "fusion.md").write_text(table(known["scores"], methods, seeds))
    print(table(known["scores"], methods, seeds))


if __name__ == "__main__":
    main()
