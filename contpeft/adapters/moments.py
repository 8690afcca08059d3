"""What merging rules may know of an adapter's data: second moments at every module it changes.

Of inputs ``x`` and output gradients ``g`` of a module, over all rows and positions: the Gram matrix, the
sum of ``x x^T``, for RegMean (Jin et al., 2023); the means of ``x^2`` and ``g^2``, whose outer product is
the Fisher diagonal of the weight (Matena & Raffel, 2022) if inputs and gradients were independent, as in
K-FAC (Martens & Grosse, 2015, section 3). They tell directions, no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from contpeft.adapters.folder import changed_modules
from contpeft.adapters.model import AdaptedModel
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterState

__all__ = ["MOMENTS", "measure_moments"]

MOMENTS: Final = "moments"


def measure_moments(
    adapted: AdaptedModel, batches: Iterable[Any], loss: Callable[[Any], Tensor]
) -> AdapterState:
    """Returns the moments of the attached adapter on some of its data; nothing of the model changes.

    Registered with the adapter as its parent in the role ``"frozen"``, a merge finds them::

        moments = measure_moments(adapted, loader, module_loss)
        store.register("billing.moments", moments, base=adapted.base, parents=[Parent("billing@3", "frozen")])

    Args:
        adapted: a model with an adapter attached, of linear layers alone.
        batches: of the task's training data.
        loss: runs the model on a batch and returns the mean loss of its rows, a scalar.

    Returns:
        A state of kind ``"moments"`` with ``<module>.gram`` ``(d_in, d_in)``, ``<module>.fisher_in``
        ``(d_in,)`` and ``<module>.fisher_out`` ``(d_out,)``, float32.

    Raises:
        SpecError: if no adapter is attached, or there is no batch.
        UnsupportedError: if a module it changes does not take vectors, or it changes none.
    """
    if adapted.attachment is None:
        raise SpecError(f"no adapter is attached to {type(adapted.module).__name__}; attach what to measure")
    sites = {name: _Site(name) for name in sorted(changed_modules(adapted.state()))}
    if not sites:
        raise UnsupportedError("the adapter changes no module; moments are those of linear layers")
    with _watched(adapted.model, sites), _evaluating(adapted.module), torch.enable_grad():
        for batch in batches:
            torch.autograd.backward(loss(batch))
    if not all(site.count for site in sites.values()):
        raise SpecError("there is no batch to measure moments on; give some of the training data")
    tensors = {
        f"{name}.{key}": value for name, site in sites.items() for key, value in site.moments().items()
    }
    rows = next(iter(sites.values())).count
    return AdapterState(MOMENTS, {"vectors": rows}, tensors)


@dataclass
class _Site:
    """Sums over the vectors that pass one module."""

    name: str
    count: int = 0
    gram: Tensor | None = None
    gradients: Tensor | None = None

    def read(self, module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        """Adds what a module is given; has the gradient of what it returns added too."""
        x = arguments[0].detach()
        if not x.is_floating_point() or x.ndim > 3:
            raise UnsupportedError(f"{self.name!r} takes no vectors; moments are those of linear layers")
        flat = x.flatten(0, -2).double()
        self.count += len(flat)
        gram = flat.T @ flat
        self.gram = gram if self.gram is None else self.gram + gram
        # A frozen model makes no graph of its own.
        watched = output if output.requires_grad else output.detach().requires_grad_()
        watched.register_hook(self._take)  # type: ignore[no-untyped-call]
        return watched

    def _take(self, gradient: Tensor) -> None:
        # The loss is a mean over rows; a row's own gradient is that many times larger.
        squares = (gradient.detach().double() * len(gradient)).square().flatten(0, -2).sum(0)
        self.gradients = squares if self.gradients is None else self.gradients + squares

    def moments(self) -> dict[str, Tensor]:
        """Returns the moments, in single precision."""
        if self.gram is None or self.gradients is None:
            raise SpecError(f"no gradient reached {self.name!r}; the loss must come from the model's output")
        found = {
            "gram": self.gram,
            "fisher_in": self.gram.diagonal() / self.count,
            "fisher_out": self.gradients / self.count,
        }
        return {key: value.float().cpu().contiguous() for key, value in found.items()}


@contextmanager
def _watched(model: nn.Module, sites: dict[str, _Site]) -> Iterator[None]:
    with ExitStack() as hooks:
        for name, site in sites.items():
            hooks.enter_context(_hooked(model.get_submodule(name), site))
        yield


@contextmanager
def _hooked(module: nn.Module, site: _Site) -> Iterator[None]:
    handle = module.register_forward_hook(site.read)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Puts every submodule in eval mode and leaves no gradient behind."""
    modes = [(each, each.training) for each in module.modules()]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
        for parameter, gradient in gradients:
            parameter.grad = gradient
