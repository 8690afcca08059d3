"""One strategy of each family is killed while it learns its second task, and ends as one that was not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from sequence_files import EXPERIMENT, kill_after, outcome, run_to_end, write_experiment

UPPER = "adapter: {method: lora, r: 4, alpha: 8, layers_to_transform: [1]}\n"
KILLED = (
    "o-lora",
    "ewc",
    "si",
    "lwf",
    "sd-lora",
    "c-lora",
    "inflora",
    "er-balanced",
    "derpp",
    "latent-replay",
    "lae",
    "merge-opcm",
    "slao",
    "merge-best",
    "drift-lda",
    "slca",
    "ease",
    "isolated-gate",
    "coda-prompt",
)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", KILLED)
def test_a_killed_strategy_goes_on_to_the_same_digests(name: str, commands: Path, tmp_path: Path) -> None:
    text = EXPERIMENT.replace("[frozen, sequential, isolated, joint]", f"[{name}]")
    text = text.replace(", talk.politics.guns, comp.graphics", "")
    if name == "latent-replay":
        text += UPPER
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        write_experiment(folder, text)
    run_to_end(commands, straight / "mini.yaml")
    delay = random.Random(name).uniform(0, 0.3)
    kill_after(commands, killed / "mini.yaml", f"{name}: task-2 (2 of 2), training, epoch 1", delay)
    run_to_end(commands, killed / "mini.yaml")
    assert outcome(killed / "adapters", "mini") == outcome(straight / "adapters", "mini")
