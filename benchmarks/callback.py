"""What the callbacks cost beside plain Lightning and PEFT, and what the 20th task costs beside the first.

    make bench-callback

Both sides train MiniLM with LoRA (r=8, query and value) and a linear head on batches of 32 x 32
tokens, on one thread. Times are CPU time.
"""

from __future__ import annotations

import copy
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import lightning.pytorch as L
import torch
from _harness import Comparison, Pair, compare, cpu_seconds, in_turn, peak_mebibytes, run_alone, save
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from contpeft import AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.adapters import AdaptedModel
from contpeft.experiments.packages import packaged_model

BATCH, TOKENS, TASKS = 32, 32, 20
STEPS, PAIRS, PROCESSES = 3, 8, 3
SPEC = AdapterSpec("lora", r=8, alpha=16, targets=("query", "value"))


def lora_config() -> LoraConfig:
    """Returns PEFT's configuration of the same adapter."""
    return LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])


@cache
def pretrained() -> nn.Module:
    """Returns MiniLM, read once."""
    model: nn.Module = AutoModel.from_pretrained(packaged_model("minilm"))
    return model


class Classifier(L.LightningModule):
    """MiniLM and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(pretrained())
        self.head = nn.Linear(384, 4)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        states = self.model(input_ids=batch["input_ids"]).last_hidden_state
        scores: Tensor = self.head(states.mean(1))
        return scores

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch), batch["labels"])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-4)


class PeftClassifier(Classifier):
    """The same with PEFT's adapter put in by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.model = get_peft_model(self.model, lora_config())


def batches(count: int) -> DataLoader[Any]:
    """Returns the same ``count`` batches at every call."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (count * BATCH, TOKENS), generator=generator)
    rows = [{"input_ids": each, "labels": torch.tensor(k % 4)} for k, each in enumerate(ids)]
    return DataLoader(rows, BATCH)  # type: ignore[arg-type]


class StepClock(L.Callback):
    """Measures CPU time from the start of the second step to the end of the last."""

    def __init__(self) -> None:
        self.started = self.ended = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.started = time.process_time()

    def on_train_batch_end(self, *hook: Any) -> None:
        self.ended = time.process_time()


def fit(module: L.LightningModule, *callbacks: L.Callback) -> float:
    """Trains ``STEPS`` steps after one that does not count; returns milliseconds a step."""
    clock = StepClock()
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[*callbacks, clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, batches(STEPS + 1))
    return 1000 * (clock.ended - clock.started) / STEPS


def training_step() -> Comparison:
    """Compares steps of ``Trainer.fit`` with our callback and with PEFT in the module."""
    ours, peft = Classifier(), PeftClassifier()
    with tempfile.TemporaryDirectory() as store:
        continual = ContinualAdapter(store, "task", SPEC)
        fit(ours, continual), fit(peft)
        pairs = in_turn(lambda: fit(ours, continual), lambda: fit(peft), PAIRS)
    return compare("training step", ("ours", "PEFT"), pairs, "ms", goal=1.02)


def peak_of_a_fit(side: str, store: str) -> float:
    """Returns the peak memory of a fit in this process."""
    if side == "PEFT":
        fit(PeftClassifier())
    else:
        fit(Classifier(), ContinualAdapter(store, "task", SPEC))
    return peak_mebibytes()


def peak_memory() -> Comparison:
    """Compares the peak memory of whole processes; ours registers its adapter too.

    In a store that is there: making one imports sqlite_utils, and with it pandas where that is installed,
    50 MiB that no later process pays.
    """
    with tempfile.TemporaryDirectory() as store:
        AdapterStore(store).names()
        ours, peft = (partial(run_alone, __file__, "--peak", side, store) for side in ("ours", "PEFT"))
        return compare("peak memory", ("ours", "PEFT"), in_turn(ours, peft, PROCESSES), "MiB", goal=1.02)


def attach_again(adapted: AdaptedModel) -> None:
    """Puts a fresh adapter in the place of the one before."""
    adapted.detach()
    adapted.attach(SPEC)
    adapted.train_only()


def attach_ours() -> Pair:
    """Returns the CPU milliseconds of attaching the 20th adapter and the first."""
    adapted = AdaptedModel.of(Classifier())
    adapted.base  # noqa: B018 - the identity of the base is computed once, whatever comes after
    times = [1000 * cpu_seconds(lambda: attach_again(adapted)) for _ in range(TASKS)]
    return times[-1], times[0]


def attach_peft() -> Pair:
    """Returns the same for adapters that PEFT keeps in the model, the new one active."""
    model = PeftClassifier().model
    times = []
    for task in range(1, TASKS + 1):
        config = lora_config()

        def attach(name: str = f"task-{task}", config: LoraConfig = config) -> None:
            model.add_adapter(name, config)
            model.set_adapter(name)

        times.append(1000 * cpu_seconds(attach))
    return times[-1], times[0]


def attaching() -> list[Comparison]:
    """Compares attaching for task 20 with attaching for task 1."""
    comparisons = []
    for side, attach, goal in (("ours", attach_ours, 1.5), ("PEFT", attach_peft, None)):
        attach()  # the first time pays for imports
        sides = f"{side} at task {TASKS}", "at task 1"
        comparisons.append(compare("attach", sides, [attach() for _ in range(PAIRS)], "ms", goal))
    return comparisons


def stepper(module: Classifier) -> Callable[[], float]:
    """Returns what takes ``STEPS`` plain steps and returns CPU milliseconds a step."""
    module.train()
    optimizer: Any = module.configure_optimizers()
    data = list(batches(STEPS))

    def steps() -> None:
        for index, batch in enumerate(data):
            optimizer.zero_grad()
            torch.autograd.backward(module.training_step(batch, index))
            optimizer.step()

    steps()
    return lambda: 1000 * cpu_seconds(steps) / STEPS


def ours_after(tasks: int) -> Classifier:
    """Returns a module that holds the last of so many adapters."""
    module = Classifier()
    for _ in range(tasks):
        attach_again(AdaptedModel.of(module))
    return module


def peft_after(tasks: int) -> Classifier:
    """Returns a module that holds so many adapters, the last one active."""
    module = PeftClassifier()
    for task in range(1, tasks):
        module.model.add_adapter(f"task-{task}", lora_config())
        module.model.set_adapter(f"task-{task}")
    return module


def later_steps() -> list[Comparison]:
    """Compares a step of task 20 with one of task 1."""
    made = {"ours": ours_after, "PEFT": peft_after}
    return [
        compare(
            "step",
            (f"{side} at task {TASKS}", "at task 1"),
            in_turn(stepper(after(TASKS)), stepper(after(1)), PAIRS),
            "ms",
            goal=1.05 if side == "ours" else None,
        )
        for side, after in made.items()
    ]


def measurements() -> Iterator[Comparison]:
    """Yields one comparison after the other."""
    yield training_step()
    yield peak_memory()
    yield from attaching()
    yield from later_steps()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # advice of Lightning on short runs
    disable_progress_bar()  # type: ignore[no-untyped-call]
    if "--peak" in sys.argv:
        print(peak_of_a_fit(*sys.argv[-2:]))
        return
    comparisons = []
    for comparison in measurements():
        print(comparison, flush=True)
        comparisons.append(comparison)
    parameters = sum(p.numel() for p in ours_after(1).parameters() if p.requires_grad)
    facts = {"model": "minilm", "batch": [BATCH, TOKENS], "adapter": str(SPEC), "tasks": TASKS}
    print(save("callback", comparisons, facts | {"trained parameters": parameters, "threads": 1}))


if __name__ == "__main__":
    main()
