"""Several LoRA adapters at once, beside a model and not in it.

Their factors lie stacked, and hooks add what they say to what a layer says: the sum of all, or of each
row's own adapter alone. The module tree is not touched, so that putting many in and taking them out costs
what one costs, and nothing has to be put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.errors import SpecError, UnsupportedError
from contpeft.merging.layout import find_factors
from contpeft.spec import AdapterState

__all__ = ["StackedLora", "directions"]


@dataclass(frozen=True)
class _Site:
    """The factors of all adapters at one module, filled up with zeros to one rank.

    Attributes:
        a: ``(N + 1, r, d_in)``; the last adapter is none.
        b: ``(N + 1, d_out, r)``, scaling included.
    """

    a: Tensor
    b: Tensor

    def summed(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns one pair of factors ``(R, d_in)`` and ``(d_out, R)`` of the weighted sum."""
        there = [n for n, weight in enumerate(weights.tolist()) if weight != 0 and bool(self.b[n].any())]
        b = self.b[there] * weights[there].to(self.b.dtype)[:, None, None]
        return self.a[there].flatten(0, 1), b.permute(1, 0, 2).flatten(1)


class StackedLora:
    """LoRA adapters stacked, of any mix of ranks, scalings and modules.

    Args:
        states: the adapters.
        device: where their factors are kept, in float32.

    Raises:
        SpecError: if there is none.
        UnsupportedError: if one is no LoRA adapter of linear layers and embeddings.
    """

    def __init__(self, states: Sequence[AdapterState], device: torch.device | str = "cpu") -> None:
        if not states:
            raise SpecError("there is no adapter to stack; give one at least")
        self.count = len(states)
        found: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
        for place, state in enumerate(states):
            tensors = state.adapter_tensors()
            for module, factors in find_factors(state.kind, state.config, tensors).items():
                if tensors[factors.a].ndim != 2:
                    raise UnsupportedError(
                        f"{module!r} is a convolution; adapters of those cannot be stacked"
                    )
                b, a, scale = factors.term(tensors)
                found.setdefault(module, {})[place] = (a.float(), (b.double() * scale).float())
        self._sites = {module: _stack(pairs, len(states), device) for module, pairs in found.items()}

    @property
    def modules(self) -> tuple[str, ...]:
        """The dotted paths of the modules that any of them changes."""
        return tuple(self._sites)

    def factors(self, module: str) -> tuple[Tensor, Tensor]:
        """Returns the factors of all adapters at a module, ``(N, r, d_in)`` and ``(N, d_out, r)``."""
        site = self._sites[module]
        return site.a[:-1], site.b[:-1]

    @contextmanager
    def summed(
        self, model: nn.Module, weights: Sequence[float], modules: Iterable[str] | None = None
    ) -> Iterator[None]:
        """Lets every row be answered by the weighted sum of all adapters inside the block.

        Args:
            model: the model they were trained on.
            weights: one for each adapter.
            modules: those of :attr:`modules` that are changed; None for all.

        Raises:
            SpecError: if there are more or fewer weights than adapters, or a layer is missing.
        """
        if len(weights) != self.count:
            raise SpecError(f"there are {len(weights)} weights for {self.count} adapters; give one for each")
        told = torch.tensor(list(weights), dtype=torch.float64)

        def hook(site: _Site) -> Callable[..., Tensor]:
            a, b = site.summed(told)

            def add(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
                x = arguments[0]
                read = F.embedding(x, a.T) if isinstance(module, nn.Embedding) else F.linear(x.to(a.dtype), a)
                return output + F.linear(read, b).to(output.dtype)

            return add

        with self._hooked(model, hook, self.modules if modules is None else modules):
            yield

    @contextmanager
    def by_row(self, model: nn.Module, rows: Tensor) -> Iterator[None]:
        """Lets each row of a batch be answered by its own adapter inside the block.

        Args:
            model: the model they were trained on; the first dimension of what its layers are given is rows.
            rows: ``(B,)``, which adapter; -1 for none.

        Raises:
            SpecError: if a row names an adapter that is not there, or a layer is missing.
        """
        if rows.numel() and not -1 <= int(rows.min()) <= int(rows.max()) < self.count:
            raise SpecError(f"rows name adapters {int(rows.min())} to {int(rows.max())} of {self.count}")
        index = torch.where(rows < 0, self.count, rows)

        def hook(site: _Site) -> Callable[..., Tensor]:
            a, b = site.a[index], site.b[index]

            def add(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
                x = arguments[0]
                if len(x) != len(index):
                    raise SpecError(f"a batch of {len(x)} rows meets adapters for {len(index)}")
                if isinstance(module, nn.Embedding):
                    read = torch.take_along_dim(a.mT, x.unsqueeze(-1), 1)
                else:
                    read = torch.bmm(x.reshape(len(x), -1, x.shape[-1]).to(a.dtype), a.mT)
                return output + torch.bmm(read, b.mT).reshape(output.shape).to(output.dtype)

            return add

        with self._hooked(model, hook, self.modules):
            yield

    @contextmanager
    def weighed(self, model: nn.Module, weigh: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
        """Lets each row, or each token, be answered by its own weighted sum inside the block.

        Args:
            model: the model they were trained on; the first dimension of what its layers are given is rows.
            weigh: given a module's path and what it reads ``(B, L, d_in)``, returns the weight of each
                adapter, ``(B, L, N)`` or ``(B, 1, N)``.

        Raises:
            SpecError: if a layer is missing.
            UnsupportedError: if an adapter changes embeddings.
        """

        def hook(path: str, site: _Site) -> Callable[..., Tensor]:
            def add(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
                if isinstance(module, nn.Embedding):
                    raise UnsupportedError(f"{path!r} is an embedding; adapters of those cannot be mixed")
                x = arguments[0].reshape(len(arguments[0]), -1, arguments[0].shape[-1]).to(site.a.dtype)
                read = torch.einsum("bld,nrd->blnr", x, site.a[:-1]) * weigh(path, x)[..., None]
                said = torch.einsum("blnr,nor->blo", read, site.b[:-1])
                return output + said.reshape(output.shape).to(output.dtype)

            return add

        with ExitStack() as hooks:
            for path in self.modules:
                handle = _layer(model, path).register_forward_hook(hook(path, self._sites[path]))
                hooks.callback(handle.remove)
            yield

    @contextmanager
    def _hooked(
        self, model: nn.Module, make: Callable[[_Site], Callable[..., Tensor]], modules: Iterable[str]
    ) -> Iterator[None]:
        with ExitStack() as hooks:
            for module in modules:
                handle = _layer(model, module).register_forward_hook(make(self._sites[module]))
                hooks.callback(handle.remove)
            yield


def directions(a: Tensor, b: Tensor) -> Tensor:
    """Returns the first right singular vector of every ``B_n A_n``, ``(N, d_in)``; zeros for no update.

    Its sign is arbitrary.

    Args:
        a: the down-projections, ``(N, r, d_in)``.
        b: the up-projections, ``(N, d_out, r)``.
    """
    rows, mixing = torch.linalg.qr(a.mT)  # A' = rows mixing, so that B A = (B mixing') rows'
    right = torch.linalg.svd(b @ mixing.mT, full_matrices=False).Vh[:, 0]
    found: Tensor = (rows @ right.unsqueeze(-1)).squeeze(-1)
    return found * b.flatten(1).any(1, keepdim=True)


def _layer(model: nn.Module, module: str) -> nn.Module:
    try:
        return model.get_submodule(module)
    except AttributeError as error:
        raise SpecError(
            f"the adapter changes {module!r}, which {type(model).__name__} does not have; "
            "give the base it was trained on"
        ) from error


def _stack(pairs: dict[int, tuple[Tensor, Tensor]], count: int, device: torch.device | str) -> _Site:
    rank = max(len(a) for a, _ in pairs.values())
    first_a, first_b = next(iter(pairs.values()))
    a = torch.zeros(count + 1, rank, first_a.shape[1], dtype=first_a.dtype)
    b = torch.zeros(count + 1, first_b.shape[0], rank, dtype=first_b.dtype)
    for place, (own_a, own_b) in pairs.items():
        a[place, : len(own_a)], b[place, :, : len(own_a)] = own_a, own_b
    return _Site(a.to(device), b.to(device))
