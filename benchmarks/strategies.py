"""What a task costs when many were learnt before it: a way that keeps all earlier adapters active.

    make bench-strategies

The recipe ``incremental-sum`` trains a fresh adapter over all earlier ones. CPU time of training steps on one
thread, task 50 and task 1 in turn, on the first two layers of MiniLM with LoRA in all linear layers; memory
is what a process of its own grows by from the loaded model to its last step. Task 1 has no adapter below it
and so no folded weights; from task 2 on there is one copy of those that adapters change.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from _harness import Comparison, compare, cpu_seconds, in_turn, peak_mebibytes, run_alone, save
from torch import Tensor, nn
from transformers import AutoModel

from contpeft.adapters import AdaptedModel
from contpeft.adapters.composing import Composed
from contpeft.adapters.guests import Beside
from contpeft.adapters.stacked import StackedLora
from contpeft.cli.quiet import quiet_libraries
from contpeft.experiments.packages import packaged_model
from contpeft.spec import AdapterSpec, AdapterState, Task
from contpeft.store import AdapterStore
from contpeft.strategies import Context, find_recipe

PAIRS, STEPS, ROWS, LENGTH, LAYERS = 7, 4, 16, 64, 2
TASKS: Final = 50
PLACES: Final = (1, 2, 10, 20, 30, 40, 50)
SPEC: Final = AdapterSpec("lora", r=8, targets=["query", "key", "value", "dense"])
INIT: Final = find_recipe("incremental-sum").init


class Encoder(nn.Module):
    """The first layers of MiniLM."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = AutoModel.from_pretrained(packaged_model("minilm"), num_hidden_layers=LAYERS)
        self.model.eval()

    def forward(self, ids: Tensor) -> Tensor:
        states: Tensor = self.model(input_ids=ids).last_hidden_state
        return states


class Training:
    """The training of one task, with all adapters of earlier tasks active.

    Args:
        store: has an adapter for each task.
        task: its number, from 1.
    """

    def __init__(self, store: AdapterStore, task: int) -> None:
        self._module = Encoder()
        self.adapted = AdaptedModel.of(self._module)
        earlier = tuple(store.show(f"way.task-{number}@1") for number in range(1, task))
        name = f"task-{task}"
        self.context = Context(
            self.adapted, store, SPEC, "way", Task(name, ("a", "b")), task - 1, history=earlier
        )
        self._ids = torch.randint(1000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))

    def attach(self) -> Training:
        """Attaches the task's adapter as the recipe does."""
        INIT.start(self.context)
        return self._ready()

    def attach_beside(self) -> Training:
        """Attaches it with the factors of all earlier ones beside the model, nothing folded."""
        states = [self.context.load(version.ref)[1] for version in self.context.history]
        own = self.adapted.attach(SPEC)
        own.remove()
        beside = Beside(StackedLora(states), [1.0] * len(states))
        self.adapted.attachment = Composed(self.adapted.model, [beside], own)
        return self._ready()

    def _ready(self) -> Training:
        self._optimizer = torch.optim.AdamW(self.adapted.train_only(), lr=1e-4)
        self.adapted.set_base_mode(training=False)
        self.steps()
        return self

    def steps(self) -> None:
        """Takes some training steps."""
        for _ in range(STEPS):
            self._optimizer.zero_grad()
            torch.autograd.backward(self._module(self._ids).square().mean())
            self._optimizer.step()

    def milliseconds(self) -> float:
        """Returns the CPU time of one step."""
        return 1e3 * cpu_seconds(self.steps) / STEPS


def fill(store: AdapterStore) -> list[int]:
    """Registers an adapter for every task; returns the bytes each takes."""
    adapted = AdaptedModel.of(Encoder())
    adapted.attach(SPEC)
    state, base = adapted.state(), adapted.base
    sizes = []
    for number in range(1, TASKS + 1):
        draw = torch.Generator().manual_seed(number)
        tensors = {name: 0.01 * torch.randn(t.shape, generator=draw) for name, t in state.tensors.items()}
        own = AdapterState(state.kind, state.config, tensors)
        sizes.append(store.register(f"way.task-{number}", own, base=base).bytes)
    return sizes


def slope(store: AdapterStore) -> float:
    """Returns by how many percent of task 1's a step grows from task to task, by least squares."""
    trainings = {task: Training(store, task).attach() for task in PLACES}
    times = {
        task: median(training.milliseconds() for _ in range(PAIRS)) for task, training in trainings.items()
    }
    centre, mean = sum(PLACES) / len(PLACES), sum(times.values()) / len(PLACES)
    rise = sum((task - centre) * (times[task] - mean) for task in PLACES)
    return 100 * rise / sum((task - centre) ** 2 for task in PLACES) / times[1]


def measure(folder: str) -> tuple[list[Comparison], dict[str, Any]]:
    """Returns all comparisons, and what does not depend on the machine."""
    store = AdapterStore(folder)
    sizes = fill(store)
    first, last = Training(store, 1).attach(), Training(store, TASKS).attach()
    peaks = {task: peak(folder, task) for task in (1, 2, TASKS)}
    results = [
        compare(
            "step",
            (f"task {TASKS}", "task 1"),
            in_turn(last.milliseconds, first.milliseconds, PAIRS),
            "ms",
            1.05,
        ),
        *(
            compare(
                "memory added by training",
                (f"task {TASKS}", f"task {task}"),
                [(peaks[TASKS], peaks[task])],
                "MiB",
                1.05,
            )
            for task in (1, 2)
        ),
    ]
    beside = Training(store, TASKS).attach_beside()
    pairs = in_turn(last.milliseconds, beside.milliseconds, PAIRS)
    results.append(compare(f"step at task {TASKS}", ("folded", "factors beside"), pairs, "ms"))
    facts = {
        "rows": ROWS, "length": LENGTH, "layers": LAYERS, "tasks": TASKS,
        "bytes kept per task": sorted(set(sizes)), "slope in % of a step per task": round(slope(store), 3),
    }  # fmt: skip
    return results, facts


def peak(folder: str, task: int) -> float:
    """Returns the mebibytes by which a process grows from the loaded model to its last training step."""
    return run_alone(__file__, folder, str(task))


def main() -> None:
    """Measures everything, prints it and writes it down."""
    with tempfile.TemporaryDirectory() as folder:
        results, facts = measure(str(Path(folder) / "store"))
    print(*results, *(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    print(f"results in {save('strategies', results, facts)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_libraries()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if len(sys.argv) == 1:
        main()
    else:
        training = Training(AdapterStore(sys.argv[1], create=False), int(sys.argv[2]))
        loaded = peak_mebibytes()
        training.attach()
        print(peak_mebibytes() - loaded)
