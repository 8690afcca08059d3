"""Classifier heads: one per version, of its own size, over features of shape ``(B, d)``.

A head is stored beside the adapter it was trained with (:class:`contpeft.spec.HeadSpec` and
tensors), never inside it, so that merging adapters does not meet tensors of different tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters.attached import cpu_copy
from contpeft.adapters.class_rows import ClassRows
from contpeft.adapters.mlp_head import MLP, MLPHead
from contpeft.adapters.statistics import StatisticsHead, check_statistics
from contpeft.errors import SpecError, suggest
from contpeft.spec import AdapterState, HeadSpec

__all__ = [
    "ClassHead",
    "CosineHead",
    "LinearHead",
    "build_head",
    "check_head",
    "head_spec",
    "head_state",
]


_TENSORS: Mapping[str, set[str]] = {
    "cosine": {"weight"},
    "linear": {"bias", "weight"},
}


@runtime_checkable
class ClassHead(Protocol):
    """A head that knows the labels of its outputs."""

    classes: tuple[str, ...]

    def spec(self) -> HeadSpec:
        """Returns what rebuilds this head, its tensors apart."""
        ...

    def forward(self, features: Tensor) -> Tensor:
        """Returns scores ``(B, len(classes))`` of features ``(B, d)``."""
        ...


class CosineHead(ClassRows):
    """Scores are scaled cosines between a feature and one weight row per class.

    Rows that start at class means make the untrained head the nearest-class-mean classifier
    (Gidaris and Komodakis 2018, "Dynamic Few-Shot Visual Learning without Forgetting", section
    3.1; imprinting: Qi et al. 2018).

    Args:
        classes: label names.
        weight: rows of shape ``(len(classes), d)``.
        scale: inverse temperature of the cosine.
        others: positions of classes whose rows stay as they are; see :class:`ClassRows`.
    """

    def __init__(
        self, classes: Sequence[str], weight: Tensor, scale: float = 20.0, others: Sequence[int] = ()
    ) -> None:
        super().__init__(classes, others)
        self.scale = float(scale)
        self.weight: nn.Parameter
        self.hold("weight", _matrix(classes, weight))

    def forward(self, features: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of features ``(B, d)``."""
        weight = F.normalize(self.rows("weight"), dim=1)
        return self.masked(self.scale * F.linear(F.normalize(features, dim=1), weight))

    def spec(self) -> HeadSpec:
        """Returns what rebuilds this head, its tensors apart."""
        return HeadSpec("cosine", self.classes, {"scale": self.scale})


class LinearHead(ClassRows):
    """An affine map per class, the head of most papers.

    Args:
        classes: label names.
        weight: rows of shape ``(len(classes), d)``.
        bias: ``(len(classes),)``; zeros when None.
        others: positions of classes whose rows stay as they are; see :class:`ClassRows`.
    """

    def __init__(
        self,
        classes: Sequence[str],
        weight: Tensor,
        bias: Tensor | None = None,
        others: Sequence[int] = (),
    ) -> None:
        super().__init__(classes, others)
        self.weight: nn.Parameter
        self.bias: nn.Parameter
        self.hold("weight", _matrix(classes, weight))
        self.hold("bias", weight.new_zeros(len(classes)) if bias is None else bias)

    def forward(self, features: Tensor) -> Tensor:
        """Returns scores ``(B, C)`` of features ``(B, d)``."""
        return self.masked(F.linear(features, self.rows("weight"), self.rows("bias")))

    def spec(self) -> HeadSpec:
        """Returns what rebuilds this head, its tensors apart."""
        return HeadSpec("linear", self.classes)


def build_head(spec: HeadSpec, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Returns the head that was stored as ``spec`` and ``tensors``.

    Raises:
        SpecError: if the kind cannot be built here (``"own"`` heads live in the user's module).
    """
    if spec.kind == "cosine":
        return CosineHead(spec.classes, tensors["weight"], **spec.options)
    if spec.kind == "linear":
        return LinearHead(spec.classes, tensors["weight"], tensors["bias"])
    if spec.kind == "statistics":
        return StatisticsHead(spec, tensors)
    if spec.kind == MLP:
        return MLPHead(spec.classes, tensors, **spec.options)
    known = ("cosine", "linear", MLP, "statistics")
    raise SpecError(f"cannot build a head of kind {spec.kind!r}{suggest(spec.kind, known)}")


def check_head(spec: HeadSpec, tensors: Mapping[str, Tensor]) -> None:
    """Checks a head that comes from elsewhere: its spec and its tensors belong together.

    The shapes of a user's own head (``"own"``) are compared when it is put into the user's module.

    Raises:
        SpecError: if they do not.
    """
    needed = _TENSORS.get(spec.kind)
    fits = needed in (None, set(tensors))
    if spec.kind == "statistics":
        fits = check_statistics(spec, set(tensors))
    if not tensors or not fits:
        names = ", ".join(sorted(tensors)) or "none"
        raise SpecError(f"a head of kind {spec.kind!r} has other tensors than these: {names}")
    if spec.kind == "own":
        return
    try:
        build_head(spec, tensors)
    except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise SpecError(f"the head of kind {spec.kind!r} cannot be built: {error}") from error


def head_spec(head: nn.Module, classes: Sequence[str] = ()) -> HeadSpec:
    """Returns the spec of any head; a module that is not ours is stored as the user's own."""
    if isinstance(head, ClassHead):
        return head.spec()
    return HeadSpec("own", tuple(classes), {"module": type(head).__name__})


def head_state(head: nn.Module, classes: Sequence[str] = ()) -> AdapterState:
    """Returns a head over the bare base as a version holds it.

    Args:
        head: the head.
        classes: label names for one that does not know its own.
    """
    tensors = {f"{AdapterState.HEAD_PREFIX}{name}": cpu_copy(v) for name, v in _stored(head).items()}
    return AdapterState("head", {}, tensors, head_spec(head, classes))


def _stored(head: nn.Module) -> dict[str, Tensor]:
    """Returns the tensors of a head as versions hold them."""
    return head.stored() if isinstance(head, ClassRows) else dict(head.state_dict())


def _matrix(classes: Sequence[str], weight: Tensor) -> Tensor:
    if weight.ndim != 2:
        raise SpecError(f"a head of {len(classes)} classes needs as many rows, got {tuple(weight.shape)}")
    return weight
