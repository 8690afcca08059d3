"""The user's module with what contpeft has attached to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.attaching import AnySpec, Load, attach_fresh, attach_stored
from contpeft.adapters.attachment import refuse_adapted
from contpeft.adapters.composing import Composed, Composer
from contpeft.adapters.find import find_model
from contpeft.adapters.fusion import FusionAttachment, FusionOptions, Member
from contpeft.adapters.head_place import HeadPlace
from contpeft.adapters.heads import head_state
from contpeft.adapters.mixed import Mixed, MixedHead
from contpeft.adapters.quantised import check_trainable
from contpeft.adapters.residents import Residents
from contpeft.adapters.seal import Seal
from contpeft.adapters.stacked import StackedLora
from contpeft.errors import BaseMismatchError, IntegrityError, SpecError
from contpeft.spec import AdapterState, Base, BaseModel, Part, Single, Version

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
        attachment: the adapter that is attached, or None.
        residents: adapters that stay made for the model after they have answered.
    """

    def __init__(self, module: nn.Module, model: str | None = None, head: str | None = None) -> None:
        self.module = module
        self.model_path, self.model = find_model(module, model)
        refuse_adapted(self.model)
        self.attachment: Attached | None = None
        self.residents = Residents()
        self._lent = ExitStack()
        self._composer = Composer(self.model, self.check_base, self.residents)
        self._seal = Seal()
        self._intact: BaseModel | None = None
        self._flags: dict[nn.Parameter, bool] | None = None
        self._place = HeadPlace(module, self.model, self.model_path, head)

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
            known._place = HeadPlace(module, known.model, known.model_path, head)
        return known

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        # A copy of the module, here or in another process, is a module not yet known.
        return type(None), ()

    @property
    def head(self) -> nn.Module | None:
        """The head, or None."""
        return self._place.head

    @property
    def head_path(self) -> str | None:
        """The dotted path of the head in the module; None when there is none."""
        return self._place.path

    @property
    def active(self) -> bool:
        """Whether an adapter computes now."""
        return self.attachment is not None

    def set_head(self, head: nn.Module) -> None:
        """Puts ``head`` in the head's place, on the model's device.

        Raises:
            SpecError: if the module has no place for a head.
        """
        self._place.put(head)

    def reset_head(self) -> None:
        """Puts back the user's own head as it was first seen, for a task that starts afresh."""
        self._place.reset()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def base(self) -> BaseModel:
        """The base model's identity; computed once, again after a tensor was written or replaced."""
        with self._set_aside():
            return self._seal.identity(self.model, self._place.inner)

    def verify_base(self) -> BaseModel:
        """Returns the base's identity, computed anew.

        Raises:
            IntegrityError: if the base is no longer what it was when the adapter was attached.
        """
        before = self._intact or self.base
        self._seal.break_open()
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
        head = self._place.inner
        return self.put_in(lambda: attach_fresh(self.model, spec, head))

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
        return self.put_in(lambda: FusionAttachment(self.model, members, options))

    def attach_over(self, below: Part, load: Load, spec: AnySpec) -> Attached:
        """Attaches a fresh adapter over stored ones, which compute with it and stay as they are.

        Only the new one is trained and stored; it answers with them: ``Stack((below, own))``.

        Args:
            below: the versions under it.
            load: gives a version's entry and weights.
            spec: how the fresh adapter is made.

        Raises:
            SpecError: as for :meth:`attach`.
            BaseMismatchError: if a version below was trained on another base model.
            UnsupportedError: if they cannot be composed so.
        """
        head = self._place.inner

        def make() -> Attached:
            with ExitStack() as lent:
                guests = self._composer.guests(below, load, lent)
                own = attach_fresh(self.model, spec, head)
                own.remove()
                made = Composed(self.model, guests, own)
                self._lent = lent.pop_all()
            return made

        return self.put_in(make)

    def attach_state(self, state: AdapterState, spec: AnySpec | None = None) -> Attached:
        """Attaches a stored adapter to be trained on.

        Args:
            state: the adapter.
            spec: the method it is trained on with, if it is of that one: what a method freezes, or does
                around each step, is no part of a stored adapter.

        Raises:
            SpecError: if it does not fit the model, or an adapter is attached already.
        """
        return self.put_in(lambda: attach_stored(self.model, state, spec=spec))

    def put_in(self, make: Callable[[], Put]) -> Put:
        """Attaches what ``make`` returns, installed; raises :class:`SpecError` if an adapter is attached."""
        if self.attachment is not None:
            raise SpecError(
                f"{type(self.module).__name__} has an adapter attached already; "
                "detach() it before the next task"
            )
        intact = self.base
        made = make()
        self.attachment, self._intact = made, intact
        return made

    def detach(self) -> None:
        """Takes the adapter out for good and puts the ``requires_grad`` flags back."""
        self._take_out()
        self._lent.close()
        self._intact = None
        if self._flags is not None:
            for parameter, flag in self._flags.items():
                parameter.requires_grad_(flag)
            self._flags = None

    def train_only(self) -> list[nn.Parameter]:
        """Makes the adapter and the head trainable and everything else in the module not.

        Returns:
            The trainable parameters.

        Raises:
            SpecError: if the head is quantised.
        """
        if self._flags is None:
            self._flags = {p: p.requires_grad for p in self.module.parameters()}
        trainable = self.attachment.trainable() if self.attachment else []
        if self.head is not None:
            check_trainable(self.head)
            trainable = [*trainable, *self.head.parameters()]
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
        own = AdapterState(self.attachment.kind, self.attachment.config_json(), self.attachment.tensors())
        if self.head is None:
            return own
        head = head_state(self.head, classes)
        return replace(own, tensors={**own.tensors, **head.tensors}, head=head.head)

    @contextmanager
    def applied(self, composition: Base | Part, load: Load | None = None) -> Iterator[None]:
        """Lets ``composition`` answer inside the block; leaving it restores the module exactly.

        Args:
            composition: the base alone (the head stays), or what one head answers for.
            load: gives a version's entry and weights; needed for a stored version.

        Raises:
            BaseMismatchError: if a version was trained on another base model.
            SpecError: if the version does not fit the model, or the other one has no head to lend.
        """
        head = self.head
        with self._set_aside(), ExitStack() as lent:
            try:
                if not isinstance(composition, Base):
                    if load is None:
                        raise SpecError(f"applying {composition} needs a store to load it from")
                    # What computes last and what answers may be one version; more are not held.
                    once = lru_cache(maxsize=1)(load)
                    self.attachment = self._composer.composed(composition, once, lent)
                    self.load_head(self._composer.answering_head(composition, once))
                yield
            finally:
                if head is not None and self.head is not head:
                    self.set_head(head)

    def mixed(self, choices: Sequence[Single], load: Load) -> Mixed:
        """Returns versions that can answer the rows of one batch together; see :meth:`applied_by_row`.

        Args:
            choices: LoRA adapters of any mix of ranks and modules, each with its head or another's.
            load: gives a version's entry and weights.

        Raises:
            BaseMismatchError: if one was trained on another base model.
            SpecError: if one does not fit the model, or has no head.
            UnsupportedError: if one is no LoRA adapter of linear layers and embeddings.
        """
        states, heads = [], []
        for single in choices:
            version, state = load(single.ref)
            self.check_base(version)
            states.append(state)
            heads.append(self._composer.lent_head(single.ref, single.answering, load))
        stack = StackedLora(states, self.device)
        built = tuple(self._place.built(state).to(self.device) for state in heads)
        return Mixed(stack, built, tuple(state.head.classes if state.head else () for state in heads))

    @contextmanager
    def applied_by_row(self, mixed: Mixed, rows: Sequence[int] | Tensor) -> Iterator[None]:
        """Lets each row of a batch be answered by its own version inside the block.

        The head's scores are as wide as the widest head in the batch, ``-inf`` beyond a row's own labels.

        Args:
            mixed: the versions.
            rows: ``(B,)``, which of them answers each row.

        Raises:
            SpecError: if a row names a version that is not there, or the batch has other rows.
        """
        index, head = mixed.index(rows, self.device), self.head
        with self._set_aside(), mixed.stack.by_row(self.model, index):
            try:
                self.set_head(MixedHead(mixed.heads, index))
                yield
            finally:
                if head is not None:
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
        if state.head is not None:
            self._place.put(self._place.built(state))

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

    def _take_out(self) -> None:
        if self.attachment is not None:
            self.attachment.remove()
            self.attachment = None
