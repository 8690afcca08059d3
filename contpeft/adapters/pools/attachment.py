"""A pool in a model: hooks that ask for a query and give each row its prefix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from contpeft.adapters.attached import Attached, check_shapes, cpu_copy
from contpeft.adapters.pools.attention import Slot, attention_modules
from contpeft.adapters.pools.bank import Bank
from contpeft.adapters.pools.options import sizes_of
from contpeft.adapters.pools.query import queries
from contpeft.adapters.pools.states import POOL, banks_of, tensors_of
from contpeft.adapters.prompts.backbone import backbone_of
from contpeft.adapters.prompts.calls import named, refuse_checkpointing
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

__all__ = ["PoolAttachment"]

_CHILD: Final = "prompt_pool"  # its name in the model while it is in


class PoolAttachment(Attached):
    """A stored pool made for one model; made installed.

    The model is called as without it. Each call has one more pass before it, without prefixes and without
    gradients, which makes a query of each row; the banks make the row's prefix of it. Banks of the same layer
    stand one before the other.

    Args:
        model: the transformers model, with no adapter installed.
        state: the pool.

    Attributes:
        banks: what it is made of.

    Raises:
        SpecError: if it does not fit the model, which is as it was then.
        UnsupportedError: if the model is no encoder, or its attention takes no prefix.
    """

    def __init__(self, model: nn.Module, state: AdapterState) -> None:
        self._model, self._config = model, dict(state.config)
        self._backbone = backbone_of(model)
        self._sizes = sizes_of(model)
        options, tensors = banks_of(state), tensors_of(state.adapter_tensors(), len(state.config["banks"]))
        self.banks = nn.ModuleList(Bank(*each) for each in zip(options, tensors, strict=True))
        self._check()
        self.banks.to(next(model.parameters()).device).train(self._backbone.training)
        modules = attention_modules(self._backbone)
        used = sorted({layer for bank in options for layer in range(*bank.layers)})
        self._slots = {layer: Slot(modules[layer]) for layer in used}
        self._hooks: list[RemovableHandle] = []
        self.installed = False
        self.install()

    def install(self) -> None:
        """Lets the model compute with the pool; nothing happens if it does.

        Raises:
            UnsupportedError: if another pool is in the model.
        """
        if self.installed:
            return
        if hasattr(self._backbone, _CHILD):
            raise UnsupportedError(
                f"{type(self._backbone).__name__} has a pool in it already; one is all it takes"
            )
        for slot in self._slots.values():  # the first refuses if any does
            slot.open()
        self._backbone.add_module(_CHILD, self.banks)
        self._hooks = [
            self._backbone.register_forward_pre_hook(self._before, with_kwargs=True),
            self._backbone.register_forward_hook(self._after, always_call=True),
        ]
        self.installed = True

    def remove(self) -> None:
        """Takes the pool and its hooks out; nothing happens if they are."""
        if self.installed:
            for hook in self._hooks:
                hook.remove()
            for slot in self._slots.values():
                slot.close()
            delattr(self._backbone, _CHILD)
            self.installed = False

    def parameters(self) -> list[nn.Parameter]:
        """Returns the rows that are trained, of all banks."""
        return list(self.banks.parameters())

    def trainable(self) -> list[nn.Parameter]:
        """Returns the same: what is frozen is no parameter."""
        return self.parameters()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns those tensors of which no row is frozen."""
        return {
            f"{number}.{name}": parameter
            for number, bank in enumerate(self._banks())
            for name, parameter in bank.named_parameters()
            if not len(getattr(bank, f"frozen_{name}"))
        }

    def train(self, mode: bool = True) -> None:
        """Puts the banks in train mode, in which only what is trained is picked, or in eval mode."""
        self.banks.train(mode)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors on the CPU, the number of the bank before each name."""
        return {
            f"{number}.{name}": cpu_copy(rows)
            for number, bank in enumerate(self._banks())
            for name, rows in bank.stored().items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the tensors.

        Raises:
            SpecError: if one is missing, foreign or of another shape; nothing is loaded then.
        """
        check_shapes(self.tensors(), tensors, "a stored pool does")
        for bank, own in zip(self._banks(), tensors_of(tensors, len(self.banks)), strict=True):
            bank.load(own)

    @property
    def kind(self) -> str:
        """The kind of the versions that hold it."""
        return POOL

    def config_json(self) -> dict[str, Any]:
        """Returns what the pool is made of, as JSON."""
        return dict(self._config)

    def distance(self) -> Tensor:
        """Returns ``sum_n (1 - cos)`` of queries to the keys picked for them, the mean over the last rows.

        Wang et al. (2022), L2P, section 4.3; a scalar, 0 where no keys were picked in train mode.
        """
        near = [bank.nearness for bank in self._banks() if bank.nearness is not None]
        told = [(1 - each).sum(-1).mean() for each in near]
        return torch.stack(told).sum() if told else torch.zeros((), device=self.parameters()[0].device)

    def dependence(self) -> Tensor:
        """Returns ``||X X^T - I||_F^2`` over components, keys and attention of banks that attend.

        Smith et al. (2023), CODA-Prompt, section 4.3; a scalar, 0 for unit rows at right angles.
        """
        banks = [bank for bank in self._banks() if bank.options.weighting == "attended"]
        told = [_dependence(rows.flatten(1)) for bank in banks for rows in bank.stored().values()]
        return torch.stack(told).sum() if told else torch.zeros((), device=self.parameters()[0].device)

    def _banks(self) -> list[Bank]:
        return [cast(Bank, bank) for bank in self.banks]

    def _check(self) -> None:
        for bank in self._banks():
            (first, stop), shape = bank.options.layers, tuple(cast(Tensor, bank.components).shape)
            wanted = (bank.options.components, stop - first, 2, bank.options.length, self._sizes.width)
            if shape != wanted or stop > self._sizes.depth:
                raise SpecError(
                    f"stored pool does not fit {type(self._model).__name__}: components of shape {shape} in "
                    f"layers {first} to {stop - 1}, the model takes {wanted} in {self._sizes.depth} layers"
                )

    def _before(self, backbone: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_checkpointing(backbone, "a pool of prompts")
        query = queries(backbone, named(backbone, args, kwargs))
        made: dict[int, list[Tensor]] = {layer: [] for layer in self._slots}
        for bank in self._banks():
            for layer, prefix in zip(range(*bank.options.layers), bank(query).unbind(1), strict=True):
                made[layer].append(prefix)
        for layer, prefixes in made.items():
            joined = torch.cat(prefixes, dim=2)
            split = joined.view(*joined.shape[:3], self._sizes.heads, -1).transpose(2, 3)
            self._slots[layer].put(split[:, 0], split[:, 1])

    def _after(self, backbone: nn.Module, args: Any, output: Any) -> None:
        left = any(not slot.read for slot in self._slots.values())
        for slot in self._slots.values():
            slot.clear()
        if left and output is not None:  # None after an error, which is the one to be told
            family = cast(Any, backbone).config.model_type
            raise UnsupportedError(
                f"a {family} model computes without its prefix; use 'lora', or another method"
            )


def _dependence(rows: Tensor) -> Tensor:
    identity = torch.eye(len(rows), device=rows.device, dtype=rows.dtype)
    return ((rows @ rows.T - identity) ** 2).sum()
