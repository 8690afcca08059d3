"""What a training step costs with each adapter method: time and memory, beside LoRA.

    make bench-methods

CPU time on one thread, each method and LoRA in turn, on a BERT of MiniLM's width with 2 layers. Memory is
what is kept for the backward pass, counted and not measured: the bytes of all tensors that autograd saves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from _encoder import encoder
from _harness import Comparison, compare, cpu_seconds, in_turn, save
from torch import Tensor

from contpeft.adapters import AdaptedModel, method_names
from contpeft.errors import ContpeftError
from contpeft.spec import AdapterSpec

PAIRS, ROWS, LENGTH = 5, 8, 64
NEEDED: Final[dict[str, dict[str, Any]]] = {
    "c3a": {"block_size": 64},
    "trainable_tokens": {"token_indices": [0]},
    "vblora": {"vector_length": 64},
}


class Side:
    """A model with one adapter, and its training step.

    Args:
        method: of the adapter.
    """

    def __init__(self, method: str) -> None:
        self._model = encoder(layers=2)
        adapted = AdaptedModel.of(self._model)
        adapted.attach(AdapterSpec(method, **NEEDED.get(method, {})))
        self._optimizer = torch.optim.AdamW(adapted.train_only(), lr=1e-4)
        adapted.set_base_mode(training=False)
        self._ids = torch.randint(1000, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))

    def step(self) -> None:
        """Takes one step."""
        self._optimizer.zero_grad()
        torch.autograd.backward(self._loss())
        self._optimizer.step()

    def kept(self) -> float:
        """Returns the mebibytes that one forward pass keeps for the backward pass, weights left out."""
        weights = {p.untyped_storage().data_ptr() for p in self._model.parameters()}
        found: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.is_sparse:
                return tensor  # has no storage of its own to count
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self._loss()
        return sum(found.values()) / 2**20

    def _loss(self) -> Tensor:
        states: Tensor = self._model(input_ids=self._ids).last_hidden_state
        return states.square().mean()


def against_lora(method: str, lora: Side) -> list[Comparison]:
    """Returns time and memory of a method's step, beside LoRA's."""
    side = Side(method)
    side.step()
    lora.step()
    clocks: tuple[Callable[[], float], Callable[[], float]] = (
        partial(cpu_seconds, side.step),
        partial(cpu_seconds, lora.step),
    )
    pairs = [(1e3 * a, 1e3 * b) for a, b in in_turn(*clocks, PAIRS)]
    kept = [(side.kept(), lora.kept())]
    sides = (method, "lora")
    return [compare("step", sides, pairs, "ms"), compare("kept for backward", sides, kept, "MiB")]


def main() -> None:
    """Measures everything, prints it and writes it down."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lora, comparisons = Side("lora"), []
    for method in method_names():
        try:
            comparisons += against_lora(method, lora)
        except ContpeftError as error:
            print(f"{method}: {error}")
    print(*comparisons, sep="\n")
    print(f"results in {save('methods', comparisons, {'rows': ROWS, 'length': LENGTH})}")


if __name__ == "__main__":
    main()
