"""Features of raw inputs, through the model as it stands or through the bare base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters import NO_TOKEN, AdaptedModel, Load, layer_features, reading_tokens
from contpeft.adapters.gated import reading_rows
from contpeft.errors import UnsupportedError
from contpeft.spec import Base, Layers, Part, Tokens, View
from contpeft.spec.identity import composition_key
from contpeft.strategies.feature_cache import FeatureCache

__all__ = ["Classifier", "Features", "as_classifier", "evaluating", "on_device"]


@runtime_checkable
class Classifier(Protocol):
    """What a module offers so that strategies can see features and evaluate compositions.

    Any ``LightningModule`` with these methods will do; those of :mod:`contpeft.experiments` are
    two examples.
    """

    def collate(self, inputs: Sequence[Any]) -> Any:
        """Returns one batch from raw inputs (texts, images), without labels."""
        ...

    def encode(self, batch: Any) -> Tensor:
        """Returns features ``(B, d)`` of a batch: what the head sees."""
        ...

    def forward(self, batch: Any) -> Tensor:
        """Returns scores ``(B, C)`` of a batch."""
        ...


def as_classifier(module: nn.Module, purpose: str) -> Classifier:
    """Returns ``module`` if it offers what ``purpose`` needs.

    Raises:
        UnsupportedError: naming the methods it lacks.
    """
    if not isinstance(module, Classifier):
        lacking = [name for name in ("collate", "encode") if not callable(getattr(module, name, None))]
        raise UnsupportedError(
            f"{purpose} needs {type(module).__name__} to have {', '.join(lacking)}(); "
            "see contpeft.strategies.Classifier"
        )
    return module


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts every submodule in eval mode without gradients; leaving restores each one's own mode."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, mode in modes:
            child.training = mode


class Features:
    """Computes features in batches of fixed size and order, so that equal data gives equal bits.

    Args:
        adapted: the model.
        batch_size: rows at a time.
        cache: where features are kept; pass one object to share it between tasks.

    Attributes:
        batch_size: rows at a time.
    """

    def __init__(
        self, adapted: AdaptedModel, batch_size: int = 32, cache: FeatureCache | None = None
    ) -> None:
        self._adapted = adapted
        self.batch_size = batch_size
        self._cache = FeatureCache() if cache is None else cache

    def current(self, inputs: Sequence[Any], digest: str | None = None) -> Tensor:
        """Returns features ``(n, d)`` through the model as it stands, on the CPU.

        Args:
            inputs: raw inputs.
            digest: their content digest; without an adapter, features are kept by it.
        """
        classifier = as_classifier(self._adapted.module, "encoding features")
        if self._adapted.active or digest is None:
            return self._map(classifier.encode, inputs)
        key = (self._adapted.base.fingerprint, digest)
        return self._cache.of_base(key, lambda: self._map(classifier.encode, inputs))

    def base(self, inputs: Sequence[Any], digest: str) -> Tensor:
        """Returns features ``(n, d)`` through the bare base, on the CPU, kept by the digest."""
        with self._adapted.applied(Base()):
            return self.current(inputs, digest)

    def embedded(self, inputs: Sequence[Any], digest: str) -> Tensor:
        """Returns the mean token embedding ``(n, d)`` of each row, on the CPU, computed once per digest.

        It is what gates read, and costs no more than the embeddings.

        Args:
            inputs: raw inputs.
            digest: their content digest.
        """
        key = (f"embeddings of {self._adapted.base.fingerprint}", digest)

        def compute() -> Tensor:
            classifier = as_classifier(self._adapted.module, "reading embeddings")
            with self._adapted.applied(Base()), reading_rows(self._adapted.model) as read:
                return self._map(lambda batch: read(lambda: classifier.encode(batch)), inputs)

        return self._cache.of_base(key, compute)

    def through(self, parts: Sequence[View], load: Load, inputs: Sequence[Any], digest: str) -> Tensor:
        """Returns the features of several views side by side, ``(n, sum of d)``, on the CPU.

        Args:
            parts: what computes them; what each says is kept by the digest.
            load: gives a version's entry and weights.
            inputs: raw inputs.
            digest: their content digest.

        Raises:
            BaseMismatchError: if a version was trained on another base model.
        """
        found = [self._seen(part, load, inputs, digest) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def tokens(self, inputs: Sequence[Any], digest: str) -> Tensor:
        """Returns the distinct tokens ``(n, L)`` of each row, on the CPU; -1 where a row has no more.

        Args:
            inputs: raw inputs.
            digest: their content digest.

        Raises:
            UnsupportedError: if they are no texts.
        """

        def compute() -> Tensor:
            classifier = as_classifier(self._adapted.module, "counting tokens")
            with self._adapted.applied(Base()), reading_tokens(self._adapted.model) as read:
                batches = self.batches(inputs, "counting tokens")
                rows = [read(partial(classifier.encode, batch)).cpu() for batch in batches]
            width = max(each.shape[1] for each in rows)
            return torch.cat([F.pad(each, (0, width - each.shape[1]), value=NO_TOKEN) for each in rows])

        return self._cache.of_base((f"tokens of {self._adapted.base.fingerprint}", digest), compute)

    def _seen(self, part: View, load: Load, inputs: Sequence[Any], digest: str) -> Tensor:
        if isinstance(part, Tokens):
            return self.tokens(inputs, digest)
        return self.base(inputs, digest) if isinstance(part, Base) else self._by(part, load, inputs, digest)

    def _by(self, part: Part | Layers, load: Load, inputs: Sequence[Any], digest: str) -> Tensor:
        whole, count = (part.of, part.last) if isinstance(part, Layers) else (part, 1)
        key = composition_key(whole, self._adapted.base, lambda ref: load(ref)[0])

        def compute() -> Tensor:
            with self._adapted.applied(whole, load):
                return self._layers(inputs, count)

        return self._cache.of_part((key if count == 1 else f"{key} {count} layers", digest), compute)

    def _layers(self, inputs: Sequence[Any], count: int) -> Tensor:
        if count == 1:
            return self.current(inputs)
        classifier = as_classifier(self._adapted.module, "encoding features of several layers")

        def encode(batch: Any) -> Tensor:
            return layer_features(self._adapted, lambda: classifier.encode(batch), count)

        return self._map(encode, inputs)

    def scores(self, inputs: Sequence[Any]) -> Tensor:
        """Returns the scores ``(n, C)`` of the model and head as they stand, on the CPU."""
        return self._map(self._adapted.module, inputs)

    def visit(self, inputs: Sequence[Any], after: Callable[[Any], None]) -> None:
        """Lets the model as it stands read raw inputs, batch by batch.

        Args:
            inputs: raw inputs.
            after: called with each batch once it was read.
        """
        classifier = as_classifier(self._adapted.module, "reading inputs")

        def read(batch: Any) -> Tensor:
            features = classifier.encode(batch)
            after(batch)
            return features

        self._map(read, inputs)

    def batches(self, inputs: Sequence[Any], purpose: str) -> Iterator[Any]:
        """Yields raw inputs as batches on the model's device, in their order.

        Args:
            inputs: raw inputs.
            purpose: names who asks in an error.

        Raises:
            UnsupportedError: if the module has no ``collate``.
        """
        classifier = as_classifier(self._adapted.module, purpose)
        for start in range(0, len(inputs), self.batch_size):
            batch = classifier.collate(inputs[start : start + self.batch_size])
            yield on_device(batch, self._adapted.device)

    def _map(self, function: Callable[[Any], Tensor], inputs: Sequence[Any]) -> Tensor:
        with evaluating(self._adapted.module):
            return torch.cat([function(batch).cpu() for batch in self.batches(inputs, "answering")])


def on_device(batch: Any, device: torch.device) -> Any:
    """Returns a batch with its tensors on a device."""
    if isinstance(batch, dict):
        return {key: on_device(value, device) for key, value in batch.items()}
    return batch.to(device) if isinstance(batch, Tensor) else batch
