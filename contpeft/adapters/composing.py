"""From a composition of stored versions to what computes in the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.attaching import Load, attach_stored
from contpeft.adapters.attachment import Attachment
from contpeft.adapters.dynamics import Together
from contpeft.adapters.folded import Fold
from contpeft.adapters.fusion import FUSION, members_of
from contpeft.adapters.fusion.bottleneck import BOTTLENECKS
from contpeft.adapters.gated import GatedAttachment
from contpeft.adapters.guests import Beside, Guest, InPlace, guests_of
from contpeft.adapters.places import paths_of
from contpeft.adapters.residents import Residents
from contpeft.adapters.stacked import StackedLora
from contpeft.adapters.summed import summed_sites
from contpeft.errors import IntegrityError, SpecError
from contpeft.spec import AdapterState, Drop, Fuse, Gated, Part, Single, Stack, Sum, Version

__all__ = ["Composed", "Composer"]


class Composed(Attached):
    """Several adapters in a model, one over the other; made installed.

    Args:
        model: the transformers model, with no adapter in it.
        below: adapters that stay as they are, the lowest first.
        own: the one on top, which may be trained; None if there is none.
    """

    def __init__(self, model: nn.Module, below: Sequence[Guest], own: Attached | None = None) -> None:
        self._model, self._below, self._own = model, list(below), own
        self._guests = [*below, *([] if own is None else guests_of(own, model))]
        self._undo = ExitStack()
        if own is not None:
            self.dynamics = Together([own.dynamics])
        self.installed = False
        self.install()

    def install(self) -> None:
        """Puts all in, each over those before it; nothing happens if they are there."""
        if self.installed:
            return
        with ExitStack() as undo:
            for guest in self._guests:
                guest.put_in(self._model, undo)
            self._undo = undo.pop_all()
        self.installed = True

    def remove(self) -> None:
        """Takes all out; nothing happens if they are."""
        if self.installed:
            self._undo.close()
            self.installed = False

    def parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of the adapter on top."""
        return [] if self._own is None else self._own.parameters()

    def trainable(self) -> list[nn.Parameter]:
        """Returns the parameters of the adapter on top that are trained."""
        return [] if self._own is None else self._own.trainable()

    def settle_trainable(self) -> None:
        """Takes those parameters of the adapter on top that require a gradient now as those that train."""
        self._top().settle_trainable()

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters of the adapter on top under their names in :meth:`tensors`."""
        with self.removed():
            return {} if self._own is None else self._own.named_parameters()

    def train(self, mode: bool = True) -> None:
        """Puts the adapter on top in train mode; those below stay in eval mode."""
        for guest in self._below:
            guest.eval()
        if self._own is not None:
            self._own.train(mode)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of the adapter on top.

        Raises:
            SpecError: if there is none.
        """
        with self.removed():
            return self._top().tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the tensors of the adapter on top.

        Raises:
            SpecError: if there is none, or they do not fit it.
        """
        with self.removed():
            self._top().load(tensors)

    def config_json(self) -> dict[str, Any]:
        """Returns the configuration of the adapter on top.

        Raises:
            SpecError: if there is none.
        """
        return self._top().config_json()

    def made_json(self) -> dict[str, Any]:
        """Returns the configuration that the adapter on top was made with."""
        return self._top().made_json()

    def _top(self) -> Attached:
        if self._own is None:
            raise SpecError("a composition of stored versions has no tensors of its own; load the versions'")
        return self._own


class Composer:
    """Makes what compositions of stored versions compute with, for one model.

    Args:
        model: the transformers model; nothing is in it while something is made.
        check: refuses a version of another base.
        residents: adapters that are made already.
    """

    def __init__(self, model: nn.Module, check: Callable[[Version], None], residents: Residents) -> None:
        self._model, self._check, self._residents = model, check, residents

    def composed(self, part: Part, load: Load, lent: ExitStack) -> Attached | None:
        """Returns what answers for ``part``, in the model; None if that is the base itself.

        Args:
            part: the composition.
            load: gives a version's entry and weights.
            lent: gives back what was borrowed.

        Raises:
            BaseMismatchError: if a version was trained on another base.
            SpecError: if one does not fit the model.
            UnsupportedError: if they cannot be composed so.
            IntegrityError: if a fusion is not over what it is said to be.
        """
        if isinstance(part, Single):
            made = self._borrowed(part.ref, load, lent)
            if made is not None:
                made.install()
            return made
        return Composed(self._model, self.guests(part, load, lent))

    def guests(self, part: Part, load: Load, lent: ExitStack) -> list[Guest]:
        """Returns what answers for ``part``, the lowest first; nothing is in the model.

        Args:
            part: the composition.
            load: gives a version's entry and weights.
            lent: gives back what was borrowed.
        """
        return self._guests(part, load, lent, (), lowest=True)

    def _guests(
        self, part: Part, load: Load, lent: ExitStack, dropped: Collection[int], *, lowest: bool
    ) -> list[Guest]:
        if isinstance(part, Stack):
            parts = enumerate(part.parts)
            each = [self._guests(p, load, lent, dropped, lowest=lowest and not n) for n, p in parts]
            return [guest for guests in each for guest in guests]
        if isinstance(part, Drop):
            return self._guests(part.part, load, lent, {*dropped, *part.layers}, lowest=lowest)
        made = self._made(part, load, lent, lowest=lowest)
        for guest in made:
            guest.dropped = dropped
        return made

    def answering_head(self, part: Part, load: Load) -> AdapterState:
        """Returns the version whose head answers; one that has none leaves the head as it is."""
        if part.head is not None:
            return self.lent_head(part.ref if isinstance(part, Single) else str(part), part.head, load)
        return load(part.answering)[1]

    def lent_head(self, what: str, ref: str, load: Load) -> AdapterState:
        """Returns the version whose head another adapter answers with.

        Args:
            what: names the other adapter in an error.
            ref: the version.
            load: gives a version's entry and weights.

        Raises:
            BaseMismatchError: if it was trained on another base.
            SpecError: if it has no head that could be lent.
        """
        lender, state = load(ref)
        self._check(lender)
        if state.head is None:
            raise SpecError(f"{lender.ref} has no head that {what} could answer with")
        if state.head.kind == "statistics":
            raise SpecError(
                f"the head of {lender.ref} is class statistics, which are no part of a model; "
                f"{what} answers with it where compositions are asked (Answerer)"
            )
        return state

    def _made(
        self, part: Single | Sum | Fuse | Gated, load: Load, lent: ExitStack, *, lowest: bool
    ) -> list[Guest]:
        if isinstance(part, Sum):
            return self._sum(part, load, lent, lowest=lowest)
        if isinstance(part, Gated):
            return guests_of(self._gated(part, load), self._model)
        if isinstance(part, Fuse):
            self._check_fused(part, load)
        made = self._borrowed(part.fusion if isinstance(part, Fuse) else part.ref, load, lent)
        return [] if made is None else guests_of(made, self._model)

    def _borrowed(self, ref: str, load: Load, lent: ExitStack) -> Attached | None:
        version, state = load(ref)
        self._check(version)
        if not state.adapter_tensors():
            return None
        make = partial(attach_stored, self._model, state, load)
        return lent.enter_context(self._residents.borrowed(self._model, version, state, make))

    def _gated(self, part: Gated, load: Load) -> GatedAttachment:
        loaded = [load(ref) for ref in part.over]
        for version, _ in loaded:
            self._check(version)
        made = GatedAttachment.from_states(self._model, [state for _, state in loaded])
        made.remove()
        return made

    def _check_fused(self, fuse: Fuse, load: Load) -> None:
        state = load(fuse.fusion)[1]
        over = members_of(state) if state.kind == FUSION else []
        if over != list(fuse.over):
            raise IntegrityError(
                f"{fuse.fusion} is no fusion over {', '.join(fuse.over)}"
                + (f", it is over {', '.join(over)}" if over else f"; it is of kind {state.kind!r}")
            )

    def _sum(self, total: Sum, load: Load, lent: ExitStack, *, lowest: bool) -> list[Guest]:
        kind = load(total.parts[0][0])[1].kind
        if lowest and kind not in BOTTLENECKS:
            return self._folded(total, load)
        loaded = [load(ref) for ref, _ in total.parts]
        for version, _ in loaded:
            self._check(version)
        weights = [weight for _, weight in total.parts]
        if kind in BOTTLENECKS and all(state.kind == kind for _, state in loaded):
            made = [cast(Attachment, self._borrowed(ref, load, lent)) for ref, _ in total.parts]
            return [InPlace(summed_sites(made, weights), paths_of(self._model), kind)]
        stack = StackedLora([state for _, state in loaded], next(self._model.parameters()).device)
        return [Beside(stack, weights)]

    def _folded(self, total: Sum, load: Load) -> list[Guest]:
        """Folds one adapter after another; one that is folded is not held any more."""
        fold = Fold(self._model)
        for ref, weight in total.parts:
            version, state = load(ref)
            self._check(version)
            fold.add(state, weight)
        return fold.guests()
