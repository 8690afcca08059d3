"""Factors of tiny adapters as numpy sees them, versions with other factors, gradients row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from strategies_tiny import Way
from torch import Tensor

from contpeft.adapters import stored_factors
from contpeft.spec import Version
from contpeft.strategies import Context

Matrix = NDArray[np.float64]


def double(tensor: Tensor) -> Matrix:
    return tensor.detach().double().numpy()


def stored(way: Way, ref: str) -> dict[str, tuple[Matrix, Matrix, float]]:
    """Returns ``A``, ``B`` and the scale of a stored version by module."""
    factors = stored_factors(way.store.load(ref), "a test")
    return {module: (double(f.down), double(f.up), f.scale) for module, f in factors.items()}


def live(context: Context) -> dict[str, tuple[Matrix, Matrix, float]]:
    """Returns the same of the adapter at hand."""
    return {
        module: (double(f.down), double(f.up), f.scale) for module, f in context.factors("a test").items()
    }


def delta(factors: tuple[Matrix, Matrix, float]) -> Matrix:
    down, up, scale = factors
    return scale * up @ down


def doctored(way: Way, change: Callable[[str, Tensor], Tensor]) -> Version:
    """Puts a version with other tensors in the place of the way's last adapter."""
    last = next(version for version in reversed(way.history) if version.adapts)
    state = way.store.load(last.ref)
    tensors = {name: change(name, tensor.clone()) for name, tensor in state.tensors.items()}
    version = way.store.register(last.name, replace(state, tensors=tensors), base=last.base, task=last.task)
    way.history = tuple(version if each is last else each for each in way.history)
    return version


def shake(context: Context, seed: int = 0, scale: float = 0.1) -> None:
    """Moves the adapter at hand somewhere at random."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in context.own_parameters.values():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def row_by_row(context: Context, objective: Callable[[Tensor, int], Tensor]) -> list[dict[str, Matrix]]:
    """Returns the gradients of each training row by itself, by the parameters' names in the module."""
    module: Any = context.adapted.module
    data, classes = context.training_data("a test"), context.adapted.head.classes
    found = []
    for row, label in zip(data.inputs, data.labels, strict=True):
        value = objective(module(module.collate([row]))[0], classes.index(label))
        gradients = torch.autograd.grad(value, list(context.own_parameters.values()))
        found.append({n: double(g) for n, g in zip(context.own_parameters, gradients, strict=True)})
    return found


def names(context: Context) -> Mapping[str, str]:
    """Returns the names in stored versions by the names in the module."""
    portable = {id(p): name for name, p in context.adapted.attachment.named_parameters().items()}
    return {name: portable[id(p)] for name, p in context.own_parameters.items()}
