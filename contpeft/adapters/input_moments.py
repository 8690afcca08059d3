"""Second moments of what the linear layers of a model read, for methods that design subspaces of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from contpeft.adapters.prompts.calls import named
from contpeft.errors import SpecError, UnsupportedError

__all__ = ["InputMoments", "input_moments"]


@dataclass(frozen=True)
class InputMoments:
    """The mean of ``x x^T`` over all tokens that modules read; modules that read the same have it once.

    Attributes:
        moments: ``(d_in, d_in)``, float64, by the first module that reads it.
        readers: for each module the one under which its moment is.
        tokens: how many each moment is the mean of, padding left out.
    """

    moments: Mapping[str, Tensor]
    readers: Mapping[str, str]
    tokens: Mapping[str, int]

    def of(self, module: str) -> Tensor:
        """Returns the moment of one module."""
        return self.moments[self.readers[module]]


def input_moments(model: nn.Module, modules: Iterable[str], run: Callable[[], object]) -> InputMoments:
    """Returns the moments of a pass over some data, the model as it stands; no gradient is needed.

    Modules that are called with one tensor one right after the other (query, key and value) share it, and
    it is multiplied once. Tokens that the model's ``attention_mask`` leaves out do not count: nothing that
    is answered depends on them.

    Args:
        model: the transformers model.
        modules: dotted paths of the linear layers in it.
        run: lets the model read all the data, in eval mode.

    Raises:
        UnsupportedError: if a module does not take vectors, or shares its input at some calls only.
        SpecError: if a module was never called.
    """
    watch = _Watch()
    names = list(modules)
    with ExitStack() as hooks:
        handle = model.register_forward_pre_hook(watch.begin, with_kwargs=True)
        hooks.callback(handle.remove)
        for name in names:
            read = model.get_submodule(name).register_forward_pre_hook(partial(watch.read, name))
            hooks.callback(read.remove)
        run()
    unread = next((name for name in names if name not in watch.readers), None)
    if unread is not None:
        raise SpecError(f"{unread!r} read nothing; give some of the task's data, or leave it out of targets")
    moments = {name: total / watch.tokens[name] for name, total in watch.sums.items()}
    return InputMoments(moments, watch.readers, watch.tokens)


class _Read(NamedTuple):
    """The tensor read last, and by which module first; kept so that its identity stays its own."""

    tensor: Tensor
    name: str


class _Watch:
    """Sums up what modules read."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.tokens: dict[str, int] = {}
        self.readers: dict[str, str] = {}
        self._mask: Tensor | None = None
        self._last: _Read | None = None

    def begin(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Takes the mask of a batch."""
        self._mask, self._last = named(model, args, kwargs).get("attention_mask"), None

    def read(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Adds what a module is given, unless another has just read the very same."""
        x: Tensor = args[0]
        shared = self._last is not None and self._last.tensor is x and self._last.name != name
        leader = self._last.name if shared and self._last is not None else name
        if self.readers.setdefault(name, leader) != leader:
            raise UnsupportedError(
                f"{name!r} reads what {self.readers[name]!r} reads in some passes only; leave one of them "
                "out of targets"
            )
        if not shared:
            self._last = _Read(x, name)
            self._add(name, x)

    def _add(self, name: str, x: Tensor) -> None:
        if not x.is_floating_point():
            raise UnsupportedError(f"{name!r} reads no vectors; moments are those of linear layers")
        rows = self._seen(x.detach()).double()
        gram = rows.T @ rows
        self.sums[name] = self.sums[name] + gram if name in self.sums else gram
        self.tokens[name] = self.tokens.get(name, 0) + len(rows)

    def _seen(self, x: Tensor) -> Tensor:
        mask = self._mask
        if mask is not None and mask.ndim == 2 and x.shape[:-1] == mask.shape:
            return x[mask.bool()]
        return x.flatten(0, -2)
