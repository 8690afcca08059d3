"""The user's module with what contpeft has attached to it."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, cast

import torch
from peft import PeftConfig
from torch import Tensor, nn

from contpeft.adapters.attachment import Attachment
from contpeft.adapters.find import find_head, find_model, get_path, set_path
from contpeft.adapters.fingerprint import base_model
from contpeft.adapters.heads import build_head, head_spec
from contpeft.adapters.methods import make_config
from contpeft.errors import BaseMismatchError, IntegrityError, SpecError, TrainingError
from contpeft.spec import AdapterSpec, AdapterState, Base, BaseModel, Single, Version

__all__ = ["AdaptedModel", "AnySpec", "Load"]

AnySpec = AdapterSpec | PeftConfig
"""How a fresh adapter is made: a spec, or PEFT's own configuration."""

Load = Callable[[str], tuple[Version, AdapterState]]
"""Maps a reference to the version's entry and its weights; ``AdapterStore`` gives one."""


class AdaptedModel:
    """A module that holds a transformers model, the adapter in it, and its head.

    What is *active* (computes) and what is *trainable* are two things here: :meth:`attach` and
    :meth:`applied` decide the first, :meth:`train_only` the second, and both are put back exactly
    by the context managers. There is one of these per module: :meth:`of` returns it.

    Attributes:
        model_path: the dotted path of ``model`` in ``module``.
        head_path: the dotted path of the head in ``module``; None when there is none.
        attachment: the adapter that is attached, or None.
    """

    _known: ClassVar[weakref.WeakKeyDictionary[nn.Module, AdaptedModel]] = weakref.WeakKeyDictionary()

    def __init__(self, module: nn.Module, model: str | None = None, head: str | None = None) -> None:
        # Weak references: the registry's value must not keep its own key alive.
        self._module = weakref.ref(module)
        self.model_path, found = find_model(module, model)
        self._model = weakref.ref(found)
        self.head_path = find_head(module, found, self.model_path, head)
        self.attachment: Attachment | None = None
        self._first_head = copy.deepcopy(self.head)
        self._base: BaseModel | None = None
        self._seal: int = -1
        self._flags: dict[nn.Parameter, bool] | None = None

    @classmethod
    def of(cls, module: nn.Module, *, model: str | None = None, head: str | None = None) -> AdaptedModel:
        """Returns what is attached to ``module``, the same object at every call.

        Args:
            module: the user's module.
            model: dotted path of the transformers model; found when None.
            head: dotted path of the classifier head; found when None.

        Raises:
            NotFoundError: if there is no transformers model, or nothing at a named path.
            SpecError: if there are several models and ``model`` does not say which.
        """
        known = cls._known.get(module)
        if known is None or known.model is not find_model(module, model)[1]:
            known = cls._known[module] = cls(module, model, head)
        elif head is not None and head != known.head_path:
            known.head_path = find_head(module, known.model, known.model_path, head)
        return known

    @property
    def module(self) -> nn.Module:
        """The user's module."""
        return _alive(self._module)

    @property
    def model(self) -> nn.Module:
        """The transformers model in it."""
        return _alive(self._model)

    @property
    def head(self) -> nn.Module | None:
        """The head, or None."""
        return None if self.head_path is None else get_path(self.module, self.head_path)

    @property
    def active(self) -> bool:
        """Whether an adapter computes now."""
        return self.attachment is not None and self.attachment.installed

    def set_head(self, head: nn.Module) -> None:
        """Puts ``head`` in the head's place, on the model's device.

        Raises:
            SpecError: if the module has no place for a head.
        """
        if self.head_path is None:
            raise SpecError(
                f"{type(self.module).__name__} has no head to replace; name its place with head='...'"
            )
        set_path(self.module, self.head_path, head.to(self.device))

    def reset_head(self) -> None:
        """Puts back the head the module was first seen with, for a task that starts afresh."""
        if self._first_head is not None:
            self.set_head(copy.deepcopy(self._first_head))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def base(self) -> BaseModel:
        """The base model's identity; computed once, again after a tensor was written in place."""
        with self._bare():
            seal = sum(p._version for p in self._base_parameters())
            if self._base is None or seal != self._seal:
                self._base, self._seal = base_model(self.model, self._inner_head()), seal
        return self._base

    def verify_base(self) -> BaseModel:
        """Returns the base's identity, computed anew.

        Raises:
            IntegrityError: if the base is no longer what it was.
        """
        before, self._base = self.base, None
        if self.base != before:
            raise IntegrityError(
                f"base model {before.name!r} has changed while adapters were trained: "
                f"{before.fingerprint[:12]} became {self.base.fingerprint[:12]}"
            )
        return before

    def attach(self, spec: AnySpec) -> Attachment:
        """Attaches a fresh adapter, which answers from now on.

        Raises:
            SpecError: if the spec does not fit the model, or an adapter is attached already.
        """
        self._refuse_second()
        self.base  # noqa: B018 - the identity is taken before anything is changed
        config = make_config(spec, self.model, self._inner_head()) if isinstance(spec, AdapterSpec) else spec
        self.attachment = Attachment(self.model, config)
        self.attachment_to_device()
        return self.attachment

    def attach_state(self, state: AdapterState) -> Attachment:
        """Attaches a stored adapter to be trained on.

        Raises:
            SpecError: if it does not fit the model, or an adapter is attached already.
        """
        self._refuse_second()
        self.base  # noqa: B018 - as in attach
        self.attachment = Attachment.from_state(self.model, state)
        self.attachment_to_device()
        return self.attachment

    def detach(self) -> None:
        """Takes the adapter out for good and puts the ``requires_grad`` flags back."""
        if self.attachment is not None:
            self.attachment.remove()
            self.attachment = None
        if self._flags is not None:
            for parameter, flag in self._flags.items():
                parameter.requires_grad_(flag)
            self._flags = None

    def train_only(self) -> list[nn.Parameter]:
        """Makes the adapter and the head trainable and everything else in the module not.

        Returns:
            The trainable parameters.
        """
        if self._flags is None:
            self._flags = {p: p.requires_grad for p in self.module.parameters()}
        trainable = [*(self.attachment.parameters() if self.attachment else ()), *self._head_parameters()]
        chosen = {id(p) for p in trainable}
        for parameter in self.module.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        return trainable

    def set_base_mode(self, *, training: bool) -> None:
        """Puts the base's modules in train or eval mode (dropout); the adapter's stay in train mode."""
        self.model.train(training)
        if self.attachment is not None:
            self.attachment.train()

    def state(self, classes: tuple[str, ...] = ()) -> AdapterState:
        """Returns the attached adapter and the head as they are now.

        Args:
            classes: label names for a head that does not know its own.

        Raises:
            SpecError: if no adapter is attached.
        """
        if self.attachment is None:
            raise SpecError(f"no adapter is attached to {type(self.module).__name__}")
        config = self.attachment.config_json()
        tensors = self.attachment.tensors()
        head = self.head
        if head is not None:
            inside = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in head.state_dict().items()}
            tensors |= {AdapterState.HEAD_PREFIX + name: value for name, value in inside.items()}
        kind = str(config["peft_type"]).lower()
        return AdapterState(kind, config, tensors, None if head is None else head_spec(head, classes))

    @contextmanager
    def applied(self, composition: Base | Single, load: Load | None = None) -> Iterator[None]:
        """Lets ``composition`` answer inside the block; leaving it restores the module exactly.

        Args:
            composition: the base alone (the head stays), or one stored version with its head.
            load: gives the version's entry and weights; needed for a stored version.

        Raises:
            BaseMismatchError: if the version was trained on another base model.
            SpecError: if the version does not fit the model.
        """
        head = self.head
        with self._bare():
            guest = None
            try:
                if isinstance(composition, Single):
                    if load is None:
                        raise SpecError(f"applying {composition} needs a store to load it from")
                    guest = self._install_guest(*load(composition.ref))
                yield
            finally:
                if guest is not None:
                    guest.remove()
                if head is not None and self.head is not head:
                    set_path(self.module, cast(str, self.head_path), head)

    def check_base(self, version: Version) -> None:
        """Checks that ``version`` was trained on this very base.

        Raises:
            BaseMismatchError: if not.
        """
        if version.base.fingerprint != self.base.fingerprint:
            raise BaseMismatchError(
                f"{version.ref} was trained on {version.base.name!r} ({version.base.fingerprint[:12]}), "
                f"this model is {self.base.name!r} ({self.base.fingerprint[:12]}); "
                "load the base it was trained on"
            )

    def load_head(self, state: AdapterState) -> None:
        """Puts a stored head in place: ours are rebuilt, the user's own gets its tensors back.

        Raises:
            SpecError: if the stored tensors do not fit the user's head.
        """
        if state.head is None:
            return
        if state.head.kind != "own":
            with torch.inference_mode(False):
                self.set_head(build_head(state.head, state.head_tensors()))
            return
        own, stored = self.head, state.head_tensors()
        if own is None or {k: v.shape for k, v in own.state_dict().items()} != {
            k: v.shape for k, v in stored.items()
        }:
            raise SpecError(
                f"the stored head ({state.head.options.get('module')}) does not fit "
                f"{type(self.module).__name__}.{self.head_path}; "
                "build the module with the head it was trained with"
            )
        self._load_own_head(own, stored)

    def attachment_to_device(self) -> None:
        """Moves a new adapter to where the model is."""
        if self.attachment is not None:
            for parameter in self.attachment.parameters():
                parameter.data = parameter.data.to(self.device)

    def _load_own_head(self, own: nn.Module, stored: dict[str, Tensor]) -> None:
        with torch.inference_mode(False), torch.no_grad():
            replica = copy.deepcopy(own)
            replica.load_state_dict(stored)
            set_path(self.module, cast(str, self.head_path), replica)

    def _install_guest(self, version: Version, state: AdapterState) -> Attachment | None:
        self.check_base(version)
        guest = Attachment.from_state(self.model, state) if state.adapter_tensors() else None
        try:
            if guest is not None:
                for parameter in guest.parameters():
                    parameter.data = parameter.data.to(self.device)
                    parameter.requires_grad_(False)
            self.load_head(state)
        except SpecError:
            if guest is not None:
                guest.remove()
            raise
        return guest

    @contextmanager
    def _bare(self) -> Iterator[None]:
        if self.attachment is None:
            yield
        else:
            with self.attachment.removed():
                yield

    def _refuse_second(self) -> None:
        if self.attachment is not None:
            raise SpecError(
                f"{type(self.module).__name__} has an adapter attached already; "
                "detach() it before the next task"
            )

    def _inner_head(self) -> nn.Module | None:
        """Returns the head if it sits inside the transformers model."""
        head = self.head
        return head if head is not None and any(head is each for each in self.model.modules()) else None

    def _head_parameters(self) -> list[nn.Parameter]:
        return [] if self.head is None else list(self.head.parameters())

    def _base_parameters(self) -> list[nn.Parameter]:
        skip = {id(p) for p in self._head_parameters()}
        return [p for p in self.model.parameters() if id(p) not in skip]


def _alive(reference: weakref.ref[nn.Module]) -> nn.Module:
    module = reference()
    if module is None:
        raise TrainingError("the module this adapter was attached to no longer exists")
    return module
