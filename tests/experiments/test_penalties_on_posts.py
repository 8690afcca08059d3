"""O-LoRA on real posts: rows come to share less than without it, and both measures are written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from contpeft.experiments import load_experiment, run_experiment
from contpeft.store import AdapterStore
from contpeft.strategies import OrthogonalRows, find_recipe
from contpeft.strategies.recipes import RECIPES

pytestmark = pytest.mark.acceptance

GROUPS = ["rec.sport.hockey", "talk.politics.misc", "talk.politics.guns", "sci.space"]
EXPERIMENT = {
    "name": "posts",
    "seed": 0,
    "stream": {
        "source": {"class_path": "Newsgroups", "init_args": {"classes": GROUPS}},
        "scenario": "class-incremental",
        "classes_per_task": 2,
        "order": GROUPS,
        "train_per_class": 24,
        "test_per_class": 4,
    },
    "module": {
        "class_path": "TextClassifier",
        "init_args": {"model": "minilm", "num_layers": 2, "max_length": 32, "learning_rate": 5e-3},
    },
    "adapter": {"method": "lora", "r": 8, "alpha": 16},
    "strategies": ["o-lora", "o-lora-free"],
    "protocols": ["task_aware"],
    "trainer": {"max_epochs": 4},
    "batch_size": 16,
    "threads": 1,
}


def test_overlap_falls_below_that_of_weight_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = replace(find_recipe("o-lora"), penalty=OrthogonalRows(0.0))
    monkeypatch.setitem(RECIPES, "o-lora-free", free)
    path = tmp_path / "posts.yaml"
    path.write_text(yaml.safe_dump({**EXPERIMENT, "store": str(tmp_path / "store")}))
    run_experiment(load_experiment(path))
    store = AdapterStore(tmp_path / "store", create=False)
    one, bound, other, unbound = (
        store.show(f"posts.{way}.overlap@{n}").config for way in ("o-lora", "o-lora-free") for n in (1, 2)
    )
    assert one == other  # the same first task, to the bit
    print({"o-lora": dict(bound), "weight 0": dict(unbound)})
    assert bound["overlap"] < 0.7 * unbound["overlap"]
    assert bound["size"] > 0.1 * unbound["size"]  # it did learn
    store.close()
