"""Gradients of every single row of the training data, from one backward pass a batch.

For a linear layer ``y = W x`` the gradient of row ``n`` is ``sum_t g_nt x_nt^T`` over its tokens, ``x`` what
the layer read and ``g`` the gradient of what it said. Rows of a transformer's batch do not see each other, so
that one backward pass of the sum over rows gives every row's ``g``. With ``W = W_0 + s B A`` the gradients of
the factors follow: ``dA = s B^T dW`` and ``dB = s dW A^T``. This is exact, dropout being off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from contpeft.adapters import Factors, LiveFactors
from contpeft.adapters.class_rows import ClassRows
from contpeft.errors import UnsupportedError
from contpeft.strategies.context import Context
from contpeft.strategies.features import Features, as_classifier, evaluating

__all__ = [
    "Objective",
    "RowGradients",
    "check_row_gradients",
    "factor_importance",
    "row_gradients",
    "stored_names",
    "update_importance",
]

Objective = Callable[[Tensor, Tensor], Tensor]
"""From the scores ``(B, C)`` of rows and their labels ``(B,)`` to one number per row, ``(B,)``, or their sum.

Scores are ``-inf`` for classes that do not compete while the task is learnt.
"""

_ROWS = 16


@dataclass(frozen=True)
class RowGradients:
    """What gives the gradients of one linear layer for each of ``n`` rows.

    Attributes:
        read: ``(n, T, d_in)``, what the layer has read.
        said: ``(n, T, d_out)``, the gradient of what it has said.
    """

    read: Tensor
    said: Tensor

    def of_factors(self, factors: Factors | LiveFactors) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the factors, ``(n, r, d_in)`` and ``(n, d_out, r)``."""
        down = (self.said @ factors.up).mT @ self.read
        up = self.said.mT @ (self.read @ factors.down.T)
        return factors.scale * down, factors.scale * up

    def of_update(self) -> Iterator[Tensor]:
        """Yields the gradient ``(d_out, d_in)`` of the layer's matrix for one row after the other."""
        for said, read in zip(self.said, self.read, strict=True):
            yield said.T @ read


def check_row_gradients(context: Context, part: str) -> None:
    """Checks that there are rows, features and factors to derive by.

    Args:
        context: the task at hand.
        part: names who asks in an error.

    Raises:
        UnsupportedError: as :func:`row_gradients` does, but for what only a pass over the rows can tell.
    """
    context.factors(part)
    context.training_data(part)
    as_classifier(context.adapted.module, part)


def factor_importance(
    context: Context, objective: Objective, size: Callable[[Tensor], Tensor], part: str
) -> dict[str, Tensor]:
    """Returns the mean over the task's rows of the sizes of their gradients, for every factor.

    Args:
        context: the task at hand, learnt.
        objective: what is derived.
        size: of a gradient, entry by entry: its square, or its absolute value.
        part: names who asks in an error.

    Returns:
        A tensor for each of the adapter's parameters, under its name in stored versions.
    """
    live, names = context.factors(part), stored_names(context)
    totals: dict[str, Tensor] = {}
    for gradients in row_gradients(context, objective, part):
        for module, rows in gradients.items():
            parameters = (live[module].down, live[module].up)
            for parameter, each in zip(parameters, rows.of_factors(live[module]), strict=True):
                name = names[id(parameter)]
                _add(totals, name, size(each.detach()).sum(0))
    return _means(totals, context, part)


def update_importance(
    context: Context, objective: Objective, size: Callable[[Tensor], Tensor], part: str
) -> dict[str, Tensor]:
    """Returns the same for the updates ``(d_out, d_in)`` themselves, by module.

    It depends on ``s B A`` alone, not on how the factors share it.
    """
    totals: dict[str, Tensor] = {}
    for gradients in row_gradients(context, objective, part):
        for module, rows in gradients.items():
            for each in rows.of_update():
                _add(totals, module, size(each))
    return _means(totals, context, part)


def row_gradients(context: Context, objective: Objective, part: str) -> Iterator[dict[str, RowGradients]]:
    """Yields the gradients of the task's training rows by adapted module, some rows at a time, in order.

    The module is in eval mode; of its head, the classes compete that competed while the task was learnt.

    Args:
        context: the task at hand, learnt.
        objective: what is derived.
        part: names who asks in an error.

    Raises:
        UnsupportedError: without the task's examples, for an adapter that is no LoRA of linear layers, and
            for a layer that folds rows together, so that they cannot be told apart.
    """
    data, classes = context.training_data(part), _classes(context)
    labels = torch.tensor([classes.index(each) for each in data.labels], device=context.adapted.device)
    start = 0
    for batch in Features(context.adapted, _ROWS).batches(data.inputs, part):
        found, rows = _of_batch(context, batch, labels[start:], objective, part)
        yield found
        start += rows


def _of_batch(
    context: Context, batch: Any, labels: Tensor, objective: Objective, part: str
) -> tuple[dict[str, RowGradients], int]:
    module, head = context.adapted.module, context.adapted.head
    with evaluating(module), torch.enable_grad(), _listening(context, part) as heard:
        if isinstance(head, ClassRows):
            head.train()  # the classes compete that did in training; it has no dropout
        scores = module(batch)
        total = objective(scores, labels[: len(scores)]).sum()
        return _derived(total, heard, len(scores), part), len(scores)


def _classes(context: Context) -> tuple[str, ...]:
    return tuple(getattr(context.adapted.head, "classes", context.task.classes))


@contextmanager
def _listening(context: Context, part: str) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Gathers what each adapted layer reads and says, call by call."""
    heard: list[tuple[str, Tensor, Tensor]] = []

    def hook(path: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _, read, said: heard.append((path, read[0].detach(), said))

    with ExitStack() as hooks:
        for path in context.factors(part):
            handle = context.adapted.model.get_submodule(path).register_forward_hook(hook(path))
            hooks.callback(handle.remove)
        yield heard


def _derived(
    total: Tensor, heard: list[tuple[str, Tensor, Tensor]], rows: int, part: str
) -> dict[str, RowGradients]:
    gradients = torch.autograd.grad(total, [said for _, _, said in heard], materialize_grads=True)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for (module, read, _), gradient in zip(heard, gradients, strict=True):
        if len(read) != rows:
            raise UnsupportedError(
                f"{part} needs layers whose first dimension is the batch; {module!r} reads {len(read)} rows "
                f"of a batch of {rows}, leave it out of the targets"
            )
        calls.setdefault(module, []).append((_tokens(read), _tokens(gradient)))
    # A layer that is called several times reads as many more tokens.
    return {
        module: RowGradients(*(torch.cat(each, 1) for each in zip(*pairs, strict=True)))
        for module, pairs in calls.items()
    }


def _add(totals: dict[str, Tensor], name: str, value: Tensor) -> None:
    totals[name] = totals[name].add_(value) if name in totals else value


def _means(totals: Mapping[str, Tensor], context: Context, part: str) -> dict[str, Tensor]:
    rows = len(context.training_data(part).labels)
    return {name: total / rows for name, total in totals.items()}


def _tokens(values: Tensor) -> Tensor:
    """Returns ``(n, ..., d)`` as ``(n, T, d)``."""
    return values.reshape(len(values), -1, values.shape[-1])


def stored_names(context: Context) -> dict[int, str]:
    """Returns the names that the adapter's parameters have in stored versions, by their identity."""
    attached = context.adapted.attachment
    return {} if attached is None else {id(p): name for name, p in attached.named_parameters().items()}
