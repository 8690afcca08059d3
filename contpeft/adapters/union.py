"""Several adapters in a model as one: attached, trained and stored together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from contpeft.adapters.attached import Attached
from contpeft.adapters.dynamics import Together
from contpeft.adapters.gates import Gates
from contpeft.adapters.places import Places, paths_of
from contpeft.adapters.presets import UNION
from contpeft.errors import SpecError
from contpeft.spec import AdapterState

__all__ = ["Union", "part_states"]

_GATES = "gates."


class Union(Attached):
    """Parts that change different places of one model; made installed.

    Each part is built on the bare model, so that it is what it would be alone, down to its tensors; in the
    union's these are named ``0.``, ``1.``, ... and then as alone, and gates ``gates.``.

    Args:
        model: the transformers model, with no adapter installed.
        makers: each returns a part, installed in the bare model.
        gated: whether a trained gate in each layer scales what each part does.

    Raises:
        SpecError: if two parts change the same place, or one refuses the model; it is as it was then.
        UnsupportedError: if a part has nothing that a gate could scale.
    """

    def __init__(
        self, model: nn.Module, makers: Sequence[Callable[[], Attached]], *, gated: bool = False
    ) -> None:
        self._parts: list[Attached] = []
        for make in makers:
            part = make()
            part.remove()
            self._parts.append(part)
        _refuse_shared(model, self._parts)
        self.dynamics = Together([part.dynamics for part in self._parts])
        self._gates = Gates(model, self._parts) if gated else None
        self.installed = False
        self.install()

    def load_gates(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the gates, if there are.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """
        if self._gates is not None:
            self._gates.load(tensors)
        elif tensors:
            raise SpecError("the union has no gates, and there are tensors of some")

    @property
    def gated(self) -> bool:
        """Whether what the parts say is scaled by gates."""
        return self._gates is not None

    @property
    def parts(self) -> tuple[Attached, ...]:
        """The parts, in the order of the spec."""
        return tuple(self._parts)

    def install(self) -> None:
        """Puts all parts in; nothing happens if they are."""
        if not self.installed:
            for part in self._all():
                part.install()
            self.installed = True

    def remove(self) -> None:
        """Takes all parts out; nothing happens if they are."""
        if self.installed:
            for part in reversed(self._all()):
                part.remove()
            self.installed = False

    def parameters(self) -> list[nn.Parameter]:
        """Returns the parameters of all parts."""
        with self.removed():
            return [each for part in self._all() for each in part.parameters()]

    def trainable(self) -> list[nn.Parameter]:
        """Returns those that the parts train."""
        return [each for part in self._all() for each in part.trainable()]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Returns the parameters in use under their names in :meth:`tensors`."""
        with self.removed():
            named = [(prefix, part.named_parameters()) for prefix, part in self._prefixed()]
        return {prefix + name: value for prefix, part in named for name, value in part.items()}

    def train(self, mode: bool = True) -> None:
        """Puts the parts' own modules in train mode, or in eval mode."""
        with self.removed():
            for part in self._all():
                part.train(mode)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors of all parts on the CPU."""
        with self.removed():
            named = [(prefix, part.tensors()) for prefix, part in self._prefixed()]
        return {prefix + name: value for prefix, part in named for name, value in part.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the tensors of all parts.

        Raises:
            SpecError: if a tensor is missing, foreign or of another shape; nothing is loaded then.
        """
        prefixes = [prefix for prefix, _ in self._prefixed()]
        foreign = next((name for name in tensors if not name.startswith(tuple(prefixes))), None)
        if foreign is not None:
            raise SpecError(
                f"stored tensor {foreign} is of none of the {len(self._parts)} parts of the union"
            )
        with self.removed(), self._all_or_none():
            for prefix, part in self._prefixed():
                part.load(_inside(tensors, prefix))

    def config_json(self) -> dict[str, Any]:
        """Returns the configurations of the parts as plain JSON."""
        parts = [part.config_json() for part in self._parts]
        return {"peft_type": UNION.upper(), "gated": self._gates is not None, "parts": parts}

    def _all(self) -> list[Attached]:
        """Returns the gates, which have to see a call first, and the parts."""
        return [*([] if self._gates is None else [self._gates]), *self._parts]

    def _prefixed(self) -> list[tuple[str, Attached]]:
        parts = [(f"{number}.", part) for number, part in enumerate(self._parts)]
        return parts if self._gates is None else [*parts, (_GATES, self._gates)]

    @contextmanager
    def _all_or_none(self) -> Iterator[None]:
        before = [(part, part.tensors()) for _, part in self._prefixed()]
        try:
            yield
        except SpecError:
            for part, tensors in before:
                part.load(tensors)
            raise


def part_states(state: AdapterState) -> tuple[list[AdapterState], dict[str, Tensor]]:
    """Returns the parts of a stored union as they would be stored alone, and the tensors of its gates.

    Raises:
        SpecError: if the configuration is not one of a union, or a tensor belongs to no part.
    """
    told = state.config.get("parts")
    if not isinstance(told, Sequence) or not all(isinstance(each, Mapping) for each in told):
        raise SpecError("a stored union has no parts in its configuration")
    tensors = state.adapter_tensors()
    prefixes = (*(f"{number}." for number in range(len(told))), _GATES)
    foreign = next((name for name in tensors if not name.startswith(prefixes)), None)
    if foreign is not None:
        raise SpecError(f"stored tensor {foreign} is of none of the {len(told)} parts of the union")
    parts = [
        AdapterState(str(config["peft_type"]).lower(), config, _inside(tensors, f"{number}."))
        for number, config in enumerate(told)
    ]
    return parts, _inside(tensors, _GATES)


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _refuse_shared(model: nn.Module, parts: Sequence[Attached]) -> None:
    taken: dict[tuple[int, str], int] = {}
    for number, part in enumerate(parts):
        for slot, name in _slots(model, part).items():
            if slot in taken:
                raise SpecError(
                    f"parts {taken[slot]} and {number} of the union both change {name}; give one of them "
                    "other targets, or leave it out"
                )
            taken[slot] = number


def _slots(model: nn.Module, part: Attached) -> dict[tuple[int, str], str]:
    """Returns what a part replaces in the model, and its name there."""
    if not isinstance(part, Places):
        return {(0, "inputs"): f"what {type(model).__name__} reads"}
    names = paths_of(model)
    own = [place for place, _ in part.places()]
    return {
        (id(each.parent), each.name): f"'{names[id(each.parent)]}.{each.name}'".replace("'.", "'")
        for each in own
    }
