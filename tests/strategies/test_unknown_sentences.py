"""Sentences of no intent, CLINC150's own: told from those of 150 intents by the frozen features."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contpeft.adapters import AdaptedModel, ClassStatistics, StatisticsHead
from contpeft.experiments.modules import TextClassifier
from contpeft.metrics.rejection import auroc, false_acceptance, false_rejection
from contpeft.strategies import Features, Rejection
from contpeft.strategies.rejection import threshold

pytestmark = pytest.mark.acceptance

FOLDER = Path(os.environ.get("CONTPEFT_CLINC150", "data/clinc150"))
EACH, ASKED = 20, 10
FLOORS = {"class-means": 0.90, "lda": 0.75, "mahalanobis": 0.85}


def rows(split: str, each: int | None = None) -> list[dict[str, Any]]:
    """Returns the rows of a split, the first few of every intent."""
    found: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for line in (FOLDER / f"{split}.jsonl").read_text().splitlines():
        row = json.loads(line)
        intent = row.get("intent", "")
        counts[intent] = counts.get(intent, 0) + 1
        if each is None or counts[intent] <= each:
            found.append(row)
    return found


@pytest.fixture(scope="module")
def features() -> dict[str, torch.Tensor]:
    if not (FOLDER / "oos.jsonl").is_file():
        pytest.skip(f"{FOLDER}/oos.jsonl is missing; python experiments/prepare_clinc150.py FOLDER {FOLDER}")
    torch.set_num_threads(1)
    read = Features(AdaptedModel.of(TextClassifier("minilm", max_length=32)))
    splits = {"train": EACH, "test": ASKED, "oos": None}
    return {name: read.base([r["text"] for r in rows(name, each)], name) for name, each in splits.items()}


def judged(rule: str, features: dict[str, torch.Tensor]) -> dict[str, float]:
    """Gathers the domains as tasks one after another; returns what is measured after the last."""
    train, test = rows("train", EACH), rows("test", ASKED)
    domains = sorted({row["domain"] for row in train})
    statistics, kept = ClassStatistics(), []
    for task, domain in enumerate(domains):
        own = [i for i, row in enumerate(train) if row["domain"] == domain]
        statistics.update(features["train"][own], [train[i]["intent"] for i in own], task)
        head = StatisticsHead(statistics.spec(rule), statistics.tensors())
        kept.append(threshold(head, features["train"][own], task, 1.0))
    rejection = Rejection(head, torch.tensor(kept))
    known, unknown = (rejection.judge(features[split]) for split in ("test", "oos"))
    routed = [domains[task] == row["domain"] for task, row in zip(known.task.tolist(), test, strict=True)]
    cuts = [torch.tensor(kept).double()[each.task].numpy() for each in (known, unknown)]
    return {
        "AUROC": auroc(known.score, unknown.score),
        "false rejections": false_rejection(known.score, cuts[0]),
        "false acceptances": false_acceptance(unknown.score, cuts[1]),
        "routed right": float(np.mean(routed)),
    }


@pytest.mark.parametrize("rule", sorted(FLOORS))
def test_unknown_sentences_are_told_from_known_ones(rule: str, features: dict[str, torch.Tensor]) -> None:
    found = judged(rule, features)
    print(rule, {name: round(value, 4) for name, value in found.items()})
    assert found["AUROC"] > FLOORS[rule]
    assert found["routed right"] > 0.9
