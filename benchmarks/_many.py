"""Adapters by the hundred: attached, switched to, mixed in one batch; beside what PEFT does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _encoder import encoder
from _harness import Comparison, compare, cpu_seconds, in_turn
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from contpeft import AdapterStore, Single
from contpeft.adapters import AdaptedModel
from contpeft.spec import AdapterSpec, AdapterState, Version

__all__ = ["attaching", "stepping", "switching"]

RANK, STORED, THERE, PAIRS = 8, (1, 64, 512), 64, 9
TARGETS = ["query", "value"]


class Stored:
    """A model, and stores with one adapter, with 64, and with 512."""

    def __init__(self, folder: Path) -> None:
        self.adapted = AdaptedModel.of(encoder())
        self.adapted.attach(AdapterSpec("lora", r=RANK))
        state, base = self.adapted.state(), self.adapted.base
        self.adapted.detach()
        self.stores = {}
        for count in STORED:
            self.stores[count] = AdapterStore(folder / f"store-{count}")
            for place in range(count):
                tensors = {name: tensor + place for name, tensor in state.tensors.items()}
                self.stores[count].register(
                    f"a{place}", AdapterState(state.kind, state.config, tensors), base=base
                )

    def afresh(self, count: int, times: int = 4) -> float:
        """Returns what it costs to let the last of ``count`` stored adapters answer that is not resident."""

        def through() -> None:
            for _ in range(times):
                self.adapted.residents.clear()
                with self.adapted.applied(Single(f"a{count - 1}@1"), self._load(count)):
                    pass

        return cpu_seconds(through)

    def switch(self, slots: int, among: int = 8) -> float:
        """Returns what letting ``among`` of 64 stored adapters answer in turn costs, reading included."""
        self.adapted.residents.slots = slots

        def through() -> None:
            for place in range(among):
                with self.adapted.applied(Single(f"a{place}@1"), self._load(THERE)):
                    pass

        return cpu_seconds(through)

    def _load(self, count: int) -> Callable[[str], tuple[Version, AdapterState]]:
        store = self.stores[count]
        return lambda ref: (store.show(ref), store.load(ref))

    def attach(self, count: int, times: int = 4) -> float:
        """Returns what attaching and detaching fresh adapters costs beside ``count`` stored ones."""
        self.stores[count].versions()

        def through() -> None:
            for _ in range(times):
                self.adapted.attach(AdapterSpec("lora", r=RANK))
                self.adapted.detach()

        return cpu_seconds(through)


class Peft:
    """A model of PEFT's with 64 adapters in it."""

    def __init__(self) -> None:
        self.config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS)
        self.model: PeftModel = get_peft_model(encoder(), self.config, adapter_name="a0")
        for place in range(1, THERE):
            self.model.add_adapter(f"a{place}", self.config)

    def switch(self, among: int = 8) -> float:
        def through() -> None:
            for place in range(among):
                self.model.set_adapter(f"a{place}")

        return cpu_seconds(through)

    def attach(self, times: int = 4) -> float:
        def through() -> None:
            for place in range(times):
                self.model.add_adapter(f"fresh{place}", self.config)

        spent = cpu_seconds(through)
        for place in range(times):
            self.model.delete_adapter(f"fresh{place}")
        return spent


def switching(stored: Stored, peft: Peft) -> list[Comparison]:
    """Letting stored adapters answer, out of many beside out of one, and beside PEFT's switch."""
    found = [_flat("four stored adapters answer", stored.afresh, count) for count in STORED[1:]]
    for slots, told in ((4, "tensors exchanged"), (8, "all resident")):
        stored.switch(slots)
        pairs = in_turn(partial(stored.switch, slots), peft.switch, PAIRS)
        sides = (f"{told}, files read", f"PEFT, {THERE} in the model")
        found.append(compare("eight switches among 64", sides, pairs, "CPU s"))
    return found


def attaching(stored: Stored, peft: Peft) -> list[Comparison]:
    """Attaching fresh adapters, beside many stored ones and beside PEFT's."""
    found = [_flat("four fresh adapters", stored.attach, count) for count in STORED[1:]]
    pairs = in_turn(partial(stored.attach, STORED[1]), peft.attach, PAIRS)
    sides = ("64 stored, taken out again", f"PEFT, {THERE} in the model")
    return [*found, compare("four fresh adapters", sides, pairs, "CPU s")]


def _flat(name: str, cost: Callable[[int], float], count: int) -> Comparison:
    cost(count), cost(1)
    pairs = in_turn(partial(cost, count), partial(cost, 1), PAIRS)
    return compare(name, (f"{count} stored", "1 stored"), pairs, "CPU s", 1.5)


def stepping() -> list[Comparison]:
    """A training step of a LoRA adapter, beside the same step in PEFT's model."""
    ours: Any = encoder(layers=6)
    adapted = AdaptedModel.of(ours)
    adapted.attach(AdapterSpec("lora", r=RANK, targets=TARGETS))
    trainable = adapted.train_only()
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=TARGETS)
    theirs = get_peft_model(encoder(layers=6), config)
    sides = [_steps(ours, trainable), _steps(theirs, [p for p in theirs.parameters() if p.requires_grad])]
    for each in sides:
        each()
    pairs = in_turn(partial(cpu_seconds, sides[0]), partial(cpu_seconds, sides[1]), PAIRS)
    return [compare("three training steps of LoRA", ("contpeft", "PEFT"), pairs, "CPU s", 1.02)]


def _steps(model: nn.Module, trainable: list[nn.Parameter]) -> Callable[[], None]:
    model.train()
    ids = torch.randint(1000, (8, 64), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)

    def through() -> None:
        for _ in range(3):
            optimizer.zero_grad()
            states: Tensor = model(input_ids=ids).last_hidden_state
            torch.autograd.backward(states.square().mean())
            optimizer.step()

    return through
