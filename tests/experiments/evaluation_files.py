"""A small real store for tests of measuring: tickets of two teams, learnt by MiniLM's first layer.

``support.isolated.billing@1`` and ``support.isolated.travel@1`` have a head each, the head of
``support.sequential@2`` knows the classes of both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from contpeft.experiments import parse_experiment, run_experiment
from contpeft.spec import AdapterState, Parent, Version
from contpeft.store import AdapterStore

BILLING, TRAVEL = "support.isolated.billing@1", "support.isolated.travel@1"
BOTH = "support.sequential@2"

WORDS = {
    ("billing", "refund"): ["give me my money back", "refund the wrong payment", "I want my money"],
    ("billing", "invoice"): ["send me the bill", "where is the invoice of this month", "the bill is missing"],
    ("travel", "flight"): ["book me a flight", "which plane leaves first", "the airport and my plane"],
    ("travel", "hotel"): ["I need a bed for two nights", "a room in a hotel", "rooms with breakfast"],
}

EVALUATION = """\
stream:
  source:
    class_path: LocalFolder
    init_args: {{path: {data}, task: team, columns: [channel, lang]}}
  by: task
  scenario: class-incremental
module: {{init_args: {{max_length: 16, num_layers: 1}}}}
threads: 1
"""


def write_tickets(folder: Path, tests: int = 8) -> None:
    """Writes tickets: refunds come by mail, all else by phone; every other one is German by its tag."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 12), ("test", tests)):
        rows = list(_tickets(split, count))
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tickets(split: str, count: int) -> Iterator[dict[str, str]]:
    for (team, label), texts in WORDS.items():
        for n in range(count):
            yield {
                "text": f"{texts[n % len(texts)]}, {split} {n}",
                "label": label,
                "team": team,
                "channel": "mail" if label == "refund" else "phone",
                "lang": "de" if n % 2 else "en",
            }


def write_support(folder: Path) -> Path:
    """Learns the teams one after the other in ``folder/adapters``; returns the evaluation file."""
    write_tickets(folder / "tickets")
    path = folder / "eval.yaml"
    path.write_text(EVALUATION.format(data=folder / "tickets"))
    trial = {
        "name": "support",
        "strategies": ["isolated", "sequential"],
        "trainer": {"max_epochs": 2},
        "batch_size": 8,
        "store": str(folder / "adapters"),
        "report": str(folder / "reports"),
    }
    run_experiment(parse_experiment({**yaml.safe_load(path.read_text()), **trial}))
    return path


def copy_support(learnt: Path, folder: Path) -> Path:
    """Copies what :func:`write_support` made, so that a test may change it; returns the evaluation file."""
    shutil.copytree(learnt, folder, dirs_exist_ok=True)
    path = folder / "eval.yaml"
    path.write_text(EVALUATION.format(data=folder / "tickets"))
    return path


def register(
    store: AdapterStore, name: str, state: AdapterState, *parents: str, fused: bool = False
) -> Version:
    """Stores a state under another name, made from versions that are there."""
    role = "fused" if fused else "continued"
    return store.register(
        name,
        state,
        base=store.show(parents[0]).base,
        origin="fused" if fused else "trained",
        recipe={"rule": "test"} if fused else None,
        parents=[Parent(each, role) for each in parents],
    )


def headless(state: AdapterState) -> AdapterState:
    """Returns an adapter without its head, as merging makes them."""
    return replace(state, tensors=state.adapter_tensors(), head=None)


def noisy(state: AdapterState, scale: float = 1.0) -> AdapterState:
    """Returns an adapter with noise on its tensors; at scale 1 little of what it knew is left."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor
        if name.startswith("head.")
        else tensor + scale * torch.randn(tensor.shape, generator=generator)
        for name, tensor in sorted(state.tensors.items())
    }
    return replace(state, tensors=tensors)


def without_class(state: AdapterState, label: str) -> AdapterState:
    """Returns an adapter whose head calls no row ``label``."""
    assert state.head is not None
    weight = state.tensors["head.weight"].clone()
    row = state.head.classes.index(label)
    weight[row] = -weight.mean(0)
    return replace(state, tensors={**state.tensors, "head.weight": weight})
