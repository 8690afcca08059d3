"""Gradients of the weights of linear layers that are frozen, without making them trainable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from contpeft.errors import SpecError

__all__ = ["weight_gradients"]


def weight_gradients(
    model: nn.Module, modules: Iterable[str], losses: Iterable[Callable[[], Tensor]]
) -> dict[str, Tensor]:
    """Returns the sum of the gradients of some losses in the weights of linear layers.

    ``dL/dW`` is the sum of ``g x^T`` over all tokens, ``x`` what the layer reads and ``g`` the gradient of
    what it says; no weight has to require one, and no parameter's own gradient changes.

    Args:
        model: the transformers model.
        modules: dotted paths of the linear layers in it.
        losses: each runs the model on a batch and returns a scalar.

    Returns:
        ``(d_out, d_in)`` in float64 by module.

    Raises:
        SpecError: if a module takes no part in a loss.
    """
    sums: dict[str, Tensor] = {}
    calls: list[tuple[str, Tensor, Tensor]] = []
    names = list(modules)
    with ExitStack() as hooks, torch.enable_grad():
        for name in names:
            hook = partial(_note, calls, name)
            hooks.callback(model.get_submodule(name).register_forward_hook(hook).remove)
        for loss in losses:
            calls.clear()
            _add(sums, calls, loss())
    missing = next((name for name in names if name not in sums), None)
    if missing is not None:
        raise SpecError(f"{missing!r} takes no part in the loss; leave it out of targets, or give some data")
    return sums


def _note(
    calls: list[tuple[str, Tensor, Tensor]], name: str, _: nn.Module, args: tuple[Any, ...], said: Tensor
) -> Tensor:
    # Below the lowest trained parameter there is no graph yet.
    watched = said if said.requires_grad else said.detach().requires_grad_()
    calls.append((name, args[0].detach(), watched))
    return watched


def _add(sums: dict[str, Tensor], calls: list[tuple[str, Tensor, Tensor]], loss: Tensor) -> None:
    gradients = torch.autograd.grad(loss, [said for _, _, said in calls], allow_unused=True)
    for (name, x, _), gradient in zip(calls, gradients, strict=True):
        if gradient is not None:
            product = gradient.flatten(0, -2).double().T @ x.flatten(0, -2).double()
            sums[name] = sums[name] + product if name in sums else product
