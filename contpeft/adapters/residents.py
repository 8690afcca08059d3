"""Adapters that stay made for a model: the few that answered last, and those that are pinned."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.places import Places
from contpeft.digest import json_digest
from contpeft.errors import SpecError
from contpeft.spec import AdapterState, Version

__all__ = ["Residents"]


class _Made(NamedTuple):
    """An adapter that is made: its method and configuration, its layers, and what was loaded into them."""

    form: str
    attached: Attached
    tensors: Mapping[str, Tensor]


class Residents:
    """A bounded number of adapters that are made for a model and not in it.

    Making an adapter's layers costs more than what they compute for a batch; putting layers that are made
    into their places costs next to nothing. When all slots are taken, the adapter that has not answered for
    longest leaves; if another one of the same configuration comes, its layers stay and get other tensors.

    Args:
        slots: how many there may be at a time.
    """

    def __init__(self, slots: int = 4) -> None:
        self._made: OrderedDict[str, _Made] = OrderedDict()  # by content, the last to answer last
        self._pinned: set[str] = set()
        self._used: set[int] = set()
        self._slots = 0
        self.slots = slots

    @property
    def slots(self) -> int:
        """How many adapters there may be at a time."""
        return self._slots

    @slots.setter
    def slots(self, slots: int) -> None:
        """Lets those leave that have no slot any more; raises :class:`SpecError` for fewer than 1."""
        if slots < 1:
            raise SpecError(f"{slots} slots hold no adapter; give 1 or more")
        self._slots = slots
        self._make_room(0)

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self._made)

    def __contains__(self, version: Version) -> bool:
        """Returns whether a version is among them."""
        return _content(version) in self._made

    def pin(self, version: Version) -> None:
        """Lets a version stay, once it is there, until :meth:`unpin`.

        Raises:
            SpecError: if all slots are pinned already.
        """
        if len(self._pinned | {_content(version)}) > self._slots:
            raise SpecError(
                f"{version.ref} cannot be pinned: all {self._slots} slots are; unpin one, or give more slots"
            )
        self._pinned.add(_content(version))

    def unpin(self, version: Version) -> None:
        """Lets a version leave when its slot is needed; nothing happens if it was not pinned."""
        self._pinned.discard(_content(version))

    def clear(self) -> None:
        """Lets all leave, the pinned ones too."""
        self._made.clear()

    @contextmanager
    def borrowed(
        self, model: nn.Module, version: Version, state: AdapterState, make: Callable[[], Attached]
    ) -> Iterator[Attached]:
        """Lends a version's adapter, made for ``model`` and not in it; inside the block it is nobody else's.

        Args:
            model: with no adapter in it.
            version: the catalogue entry.
            state: the tensors.
            make: makes the adapter and puts it in, if it is not among these.
        """
        content, form = _content(version), _form(version)
        made = self._there(content, model, state) or self._given_up(form, model, state)
        if made is None:
            self._make_room(1)
            made = make()
            made.remove()
            for parameter in made.parameters():
                parameter.requires_grad_(False)
        self._made[content] = _Made(form, made, state.adapter_tensors())
        self._used.add(id(made))
        try:
            yield made
        finally:
            self._used.discard(id(made))

    def _there(self, content: str, model: nn.Module, state: AdapterState) -> Attached | None:
        known = self._made.get(content)
        # A version that was put together by hand may say of itself what it is not.
        if known is None or not _same(known.tensors, state.adapter_tensors()):
            return None
        return self._made.pop(content).attached if self._free(known.attached, model) else None

    def _given_up(self, form: str, model: nn.Module, state: AdapterState) -> Attached | None:
        """Returns layers that another version of the same form gives up, with the tensors of this one."""
        if len(self._made) < self._slots:
            return None
        for content, other in self._made.items():
            alike = other.form == form and isinstance(other.attached, Attachment)
            if alike and content not in self._pinned and self._free(other.attached, model):
                other.attached.load(state.adapter_tensors())
                return self._made.pop(content).attached
        return None

    def _free(self, made: Attached, model: nn.Module) -> bool:
        """Returns whether layers are not in use, and stand around what is in the model and on its device."""
        device = next(model.parameters()).device
        if id(made) in self._used or any(parameter.device != device for parameter in made.parameters()):
            return False
        return isinstance(made, Places) and all(base.now().module is base.module for base, _ in made.places())

    def _make_room(self, wanted: int) -> None:
        free = [content for content in self._made if content not in self._pinned]
        for content in free[: max(0, len(self._made) + wanted - self._slots)]:
            del self._made[content]


def _content(version: Version) -> str:
    return json_digest([_form(version), version.fingerprint])


def _form(version: Version) -> str:
    return json_digest([version.base.fingerprint, version.kind, dict(version.config)])


def _same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name] is right[name] or torch.equal(left[name], right[name]) for name in left
    )
