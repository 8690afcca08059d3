"""Layers that no adapter changes compute each row once: their output is kept, and calls go on from there."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor

from contpeft.adapters.layers import trunk_of
from contpeft.adapters.model import AdaptedModel
from contpeft.adapters.prefix_cache import PrefixCache
from contpeft.errors import UnsupportedError

__all__ = ["FrozenPrefix"]

_TOKENS: Final = ("input_ids", "attention_mask", "token_type_ids")
_READ: Final = (*_TOKENS, "pixel_values")


class FrozenPrefix:
    """Inside its block a model skips the layers below its adapter for every row that it has read before.

    Neither the module nor whoever calls it knows. What a row's states are does not depend on what was kept
    when, nor on the other rows of its batch: each row that is missed is computed alone, without its padding.
    At padded positions the states are 0, which no attention reads.

    How many layers are skipped is found at every call: those that compute as without an adapter. With an
    adapter in the first layer that is none, and the model computes as outside the block.

    Args:
        adapted: the model.
        cache: where hidden states are kept, on the CPU; None to keep nothing.

    Attributes:
        read: the hidden states ``(T, d)`` of each row of the last call, without its padding.

    Raises:
        UnsupportedError: if the model is no encoder whose layers are known.
    """

    def __init__(self, adapted: AdaptedModel, cache: PrefixCache | None = None) -> None:
        self._trunk = trunk_of(adapted)
        self.read: list[Tensor] = []
        self._cache = cache
        self._outer: Any = None
        self._fingerprint = adapted.base.fingerprint
        self._names = list(inspect.signature(type(self._trunk.module).forward).parameters)[1:]

    def __enter__(self) -> Self:
        """Lets the model skip what it has read; what the cache has kept so far may make room."""
        if self._cache is not None:
            self._cache.next_round()
        own = vars(self._trunk.module)
        self._outer, own["forward"] = own.get("forward"), self._forward
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets the model compute as before the block."""
        own = vars(self._trunk.module)
        del own["forward"]
        if self._outer is not None:
            own["forward"] = self._outer

    def check(self, what: str = "a prefix cache") -> None:
        """Checks that there is something to skip.

        Args:
            what: names who asks in the error.

        Raises:
            UnsupportedError: if the adapter at hand changes the first layer or what is below it.
        """
        if not self._trunk.depth():
            count = len(self._trunk.layers)
            upper = list(range(count // 2, count))
            raise UnsupportedError(
                f"{what} keeps what the layers below the adapter compute, and this adapter changes "
                f"the first of {count}; give it the upper layers alone "
                f"(layers_to_transform={upper}), or use none"
            )

    def states(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Returns the hidden states ``(T, d)`` below the adapter of each row, without its padding.

        Args:
            batch: what the transformers model is called with; T is the row's own length.

        Raises:
            UnsupportedError: if the model is called with something else, or draws dropout.
        """
        depth = self._trunk.depth()
        self._trunk.check_still(depth)
        rows = _rows(batch)
        kept = [self._of_row(depth, row) for row in rows]
        device = next(iter(batch.values())).device
        return [states.to(device) for states in kept]

    @contextmanager
    def resumed(self, states: Sequence[Tensor]) -> Iterator[None]:
        """Lets calls of the model inside the block go on from hidden states, whatever they are called with.

        Args:
            states: ``(T, d)`` of each row below the adapter, as :attr:`read` had them.
        """
        with self._trunk.entered(self._trunk.depth(), _padded(states, max(map(len, states)))):
            yield

    def _forward(self, *args: Any, **options: Any) -> Any:
        module, depth = self._trunk.module, self._trunk.depth()
        if not depth:
            return type(module).forward(module, *args, **options)
        batch = self._batch(args, options)
        self.read = self.states(batch)
        width = batch["input_ids"].shape[1] if "input_ids" in batch else len(self.read[0])
        with self._trunk.entered(depth, _padded(self.read, width)):
            return type(module).forward(module, *args, **options)

    def _batch(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns what rows are made of in a call of the model.

        Raises:
            UnsupportedError: if it is called with more.
        """
        told = {**dict(zip(self._names, args, strict=False)), **options}
        given = {name: value for name, value in told.items() if value is not None and name != "return_dict"}
        wrong = sorted(name for name in given if name not in _READ)
        if wrong or not given:
            raise UnsupportedError(
                f"a prefix cache cannot serve a call with {', '.join(wrong) or 'no inputs'}; it knows calls "
                f"with {', '.join(_READ)}: leave out the cache, or what else is asked for"
            )
        return given

    def _of_row(self, depth: int, row: Mapping[str, Tensor]) -> Tensor:
        if self._cache is None:
            return self._trunk.states(depth, **row)[0]
        key = self._key(depth, row)
        known = self._cache.get(key)
        if known is None:
            known = self._trunk.states(depth, **row)[0].cpu()
            self._cache.put(key, known)
        return known

    def _key(self, depth: int, row: Mapping[str, Tensor]) -> bytes:
        device = next(iter(row.values())).device.type
        cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        hasher = hashlib.blake2b(f"{self._fingerprint} {depth} {device} {cast}".encode(), digest_size=32)
        for name, value in sorted(row.items()):
            hasher.update(f" {name} {value.dtype} {tuple(value.shape)} ".encode())
            hasher.update(value.cpu().contiguous().view(torch.uint8).numpy().data)
        return hasher.digest()


def _padded(states: Sequence[Tensor], width: int) -> Tensor:
    """Returns the states of all rows ``(B, width, d)``, with zeros behind each."""
    padded = states[0].new_zeros(len(states), width, states[0].shape[1])
    for row, each in zip(padded, states, strict=True):
        row[: len(each)] = each
    return padded


def _rows(batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Returns each row as a batch of its own, padding behind it and a mask that hides nothing left out.

    Raises:
        UnsupportedError: if the mask is not of one number a token.
    """
    mask = batch.get("attention_mask")
    if mask is not None and mask.ndim != 2:
        raise UnsupportedError(
            f"a prefix cache reads masks of shape (rows, tokens), not {tuple(mask.shape)}; leave it out"
        )
    rows = [
        {name: value[index : index + 1] for name, value in batch.items()}
        for index in range(len(next(iter(batch.values()))))
    ]
    if mask is None or "input_ids" not in batch:
        return rows
    ends = mask.ne(0) * torch.arange(1, mask.shape[1] + 1, device=mask.device)
    lengths = ends.amax(1).clamp(min=1).tolist()
    cut = [
        {name: value[:, :length] for name, value in row.items()}
        for row, length in zip(rows, lengths, strict=True)
    ]
    whole = [bool(row["attention_mask"].all()) for row in cut]
    return [
        {name: value for name, value in row.items() if not (seen and name == "attention_mask")}
        for row, seen in zip(cut, whole, strict=True)
    ]
