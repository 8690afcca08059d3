"""The user's module with what contpeft has attached to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.attaching import AnySpec, Load, attach_fresh, attach_stored
from contpeft.adapters.attachment import refuse_adapted
from contpeft.adapters.find import find_head, find_model, get_path, set_path
from contpeft.adapters.fingerprint import base_model, base_seal
from contpeft.adapters.fusion import FusionAttachment, FusionOptions, Member
from contpeft.adapters.heads import build_head, head_spec
from contpeft.adapters.quantised import check_trainable
from contpeft.adapters.stacked import StackedLora
from contpeft.errors import BaseMismatchError, IntegrityError, SpecError
from contpeft.spec import AdapterState, Base, BaseModel, Single, Sum, Version

__all__ = ["AdaptedModel", "AnySpec", "Load"]

Put = TypeVar("Put", bound=Attached)

_ATTRIBUTE = "_contpeft"


class AdaptedModel:
    """A module that holds a transformers model, the adapter in it, and its head.

    What is *active* (computes) and what is *trainable* are two things here: :meth:`attach` and
    :meth:`applied` decide the first, :meth:`train_only` the second, and both are put back exactly
    by the context managers. There is one of these per module: :meth:`of` returns it.

    Attributes:
        module: the user's module.
        model: the transformers model in it.
        model_path: the dotted path of ``model`` in ``module``.
        head_path: the dotted path of the head in ``module``; None when there is none.
        attachment: the adapter that is attached, or None.
    """

    def __init__(self, module: nn.Module, model: str | None = None, head: str | None = None) -> None:
        self.module = module
        self.model_path, self.model = find_model(module, model)
        refuse_adapted(self.model)
        self.attachment: Attached | None = None
        self._base: BaseModel | None = None
        self._seal: list[tuple[int, int, torch.dtype]] = []
        self._intact: BaseModel | None = None
        self._flags: dict[nn.Parameter, bool] | None = None
        self.head_path: str | None = None
        self._placed: nn.Module | None = None
        self._own_head: nn.Module | None = None
        self._place_head(head)

    @classmethod
    def of(cls, module: nn.Module, *, model: str | None = None, head: str | None = None) -> AdaptedModel:
        """Returns what is attached to ``module``, the same object at every call.

        Args:
            module: the user's module.
            model: dotted path of the transformers model; found, or as it was named before, when None.
            head: dotted path of the classifier head; found, or as it was named before, when None.

        Raises:
            NotFoundError: if there is no transformers model, or nothing at a named path.
            SpecError: if there are several models and ``model`` does not say which, or the model
                holds adapters already.
        """
        known: AdaptedModel | None = vars(module).get(_ATTRIBUTE)
        path = known.model_path if known is not None and model is None else model
        if known is None or known.model is not find_model(module, path)[1]:
            known = vars(module)[_ATTRIBUTE] = cls(module, path, head)
        elif head is not None and head != known.head_path:
            known._place_head(head)
        return known

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A copy of the module, here or in another process, is a module not yet known.
        return type(None), ()

    @property
    def head(self) -> nn.Module | None:
        """The head, or None."""
        return None if self.head_path is None else get_path(self.module, self.head_path)

    @property
    def active(self) -> bool:
        """Whether an adapter computes now."""
        return self.attachment is not None

    def set_head(self, head: nn.Module) -> None:
        """Puts ``head`` in the head's place, on the model's device.

        Raises:
            SpecError: if the module has no place for a head.
        """
        if self.head_path is None:
            raise SpecError(
                f"{type(self.module).__name__} has no head to replace; name its place with head='...'"
            )
        self._remember_own_head()
        self._placed = head.to(self.device)
        set_path(self.module, self.head_path, self._placed)

    def reset_head(self) -> None:
        """Puts back the user's own head as it was first seen, for a task that starts afresh."""
        self._remember_own_head()
        if self._own_head is not None:
            self.set_head(_copied(self._own_head))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def base(self) -> BaseModel:
        """The base model's identity; computed once, again after a tensor was written or replaced."""
        with self._set_aside():
            head = self._inner_head()
            seal = base_seal(self.model, head)
            if self._base is None or seal != self._seal:
                self._base, self._seal = base_model(self.model, head), seal
        return self._base

    def verify_base(self) -> BaseModel:
        """Returns the base's identity, computed anew.

        Raises:
            IntegrityError: if the base is no longer what it was when the adapter was attached.
        """
        before, self._base = self._intact or self.base, None
        if self.base != before:
            raise IntegrityError(
                f"base model {before.name!r} has changed while adapters were trained: "
                f"{before.fingerprint[:12]} became {self.base.fingerprint[:12]}"
            )
        return before

    def attach(self, spec: AnySpec) -> Attached:
        """Attaches a fresh adapter, which answers from now on.

        Raises:
            SpecError: if the spec does not fit the model, or an adapter is attached already.
            UnsupportedError: if it would change more than the modules it is applied to.
        """
        head = self._inner_head()
        return self._put_in(lambda: attach_fresh(self.model, spec, head))

    def attach_fusion(
        self, members: Sequence[Member], options: FusionOptions | None = None
    ) -> FusionAttachment:
        """Puts attention over several stored LoRA adapters into the model; only the fusion trains.

        Args:
            members: the adapters, each with its catalogue entry.
            options: what the fusion layers are made of.

        Raises:
            SpecError: if an adapter is attached already, or there are fewer than two members.
            UnsupportedError: if one is no LoRA adapter of linear layers.
            BaseMismatchError: if one was trained on another base model.
        """
        for version, _ in members:
            self.check_base(version)
        return self._put_in(lambda: FusionAttachment(self.model, members, options))

    def attach_state(self, state: AdapterState, spec: AnySpec | None = None) -> Attached:
        """Attaches a stored adapter to be trained on.

        Args:
            state: the adapter.
            spec: the method it is trained on with, if it is of that one: what a method freezes, or does
                around each step, is no part of a stored adapter.

        Raises:
            SpecError: if it does not fit the model, or an adapter is attached already.
        """
        return self._put_in(lambda: attach_stored(self.model, state, spec=spec))

    def detach(self) -> None:
        """Takes the adapter out for good and puts the ``requires_grad`` flags back."""
        self._take_out()
        self._intact = None
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
        trainable = [*(self.attachment.trainable() if self.attachment else ()), *self._head_parameters()]
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
    def applied(self, composition: Base | Single | Sum, load: Load | None = None) -> Iterator[None]:
        """Lets ``composition`` answer inside the block; leaving it restores the module exactly.

        Args:
            composition: the base alone (the head stays), or one stored version or a sum of several, with its
                head or that of another one.
            load: gives a version's entry and weights; needed for a stored version.

        Raises:
            BaseMismatchError: if a version was trained on another base model.
            SpecError: if the version does not fit the model, or the other one has no head to lend.
        """
        head = self.head
        with self._set_aside(), ExitStack() as beside:
            try:
                if not isinstance(composition, Base):
                    if load is None:
                        raise SpecError(f"applying {composition} needs a store to load it from")
                    if isinstance(composition, Sum):
                        self._put_beside(composition, load, beside)
                    else:
                        self._install_guest(composition, load)
                yield
            finally:
                if head is not None and self.head is not head:
                    self.set_head(head)

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

    def check_fits(self, state: AdapterState) -> None:
        """Checks that a stored adapter fits: it is put in once and taken out again.

        Raises:
            SpecError: if it does not fit the model.
        """
        with self._set_aside():
            attach_stored(self.model, state).remove()

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
        self._remember_own_head()
        stored = state.head_tensors()
        if self._own_head is None or _shapes(self._own_head.state_dict()) != _shapes(stored):
            raise SpecError(
                f"the stored head ({state.head.options.get('module')}) does not fit "
                f"{type(self.module).__name__}.{self.head_path}; "
                "build the module with the head it was trained with"
            )
        head = _copied(self._own_head)
        with torch.inference_mode(False):
            head.load_state_dict(stored)
        self.set_head(head)

    def _place_head(self, path: str | None) -> None:
        self.head_path = find_head(self.module, self.model, self.model_path, path)
        self._remember_own_head()

    def _remember_own_head(self) -> None:
        """Keeps the user's head as it is when first seen, whenever the user has put another in place."""
        if self.head is not self._placed:
            self._placed = self.head
            self._own_head = None if self.head is None else _copied(self.head)

    def _install_guest(self, single: Single, load: Load) -> None:
        version, state = load(single.ref)
        self.check_base(version)
        if state.adapter_tensors():
            self.attachment = attach_stored(self.model, state, load)
            for parameter in self.attachment.parameters():
                parameter.requires_grad_(False)
        self.load_head(state if single.head is None else self._lent_head(single.ref, single.head, load))

    def _put_beside(self, total: Sum, load: Load, beside: ExitStack) -> None:
        states = []
        for ref, _ in total.parts:
            version, state = load(ref)
            self.check_base(version)
            states.append(state)
        stack = StackedLora(states, self.device)
        beside.enter_context(stack.summed(self.model, [weight for _, weight in total.parts]))
        self.load_head(self._lent_head(str(total), total.answering, load))

    def _lent_head(self, what: str, ref: str, load: Load) -> AdapterState:
        """Returns the version whose head another adapter answers with."""
        lender, state = load(ref)
        self.check_base(lender)
        if state.head is None:
            raise SpecError(f"{lender.ref} has no head that {what} could answer with")
        if state.head.kind == "statistics":
            raise SpecError(
                f"the head of {lender.ref} is class statistics of the bare base; {what} cannot answer with it"
            )
        return state

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Takes the attached adapter out inside the block; afterwards it is the one that is in."""
        own, self.attachment = self.attachment, None
        with own.removed() if own is not None else nullcontext():
            try:
                yield
            finally:
                self._take_out()
                self.attachment = own

    def _put_in(self, make: Callable[[], Put]) -> Put:
        if self.attachment is not None:
            raise SpecError(
                f"{type(self.module).__name__} has an adapter attached already; "
                "detach() it before the next task"
            )
        intact = self.base
        made = make()
        self.attachment, self._intact = made, intact
        return made

    def _take_out(self) -> None:
        if self.attachment is not None:
            self.attachment.remove()
            self.attachment = None

    def _inner_head(self) -> nn.Module | None:
        """Returns the head if it sits inside the transformers model."""
        head = self.head
        return head if head is not None and any(head is each for each in self.model.modules()) else None

    def _head_parameters(self) -> list[nn.Parameter]:
        if self.head is None:
            return []
        check_trainable(self.head)
        return list(self.head.parameters())


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _copied(head: nn.Module) -> nn.Module:
    with torch.inference_mode(False):  # so that the copy can be trained
        return copy.deepcopy(head)
