"""What a composition answers: predicted labels, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from contpeft.adapters import AdaptedModel, Load, StatisticsHead
from contpeft.errors import SpecError
from contpeft.spec import AdapterState, Base, Composition, Parallel, Part, Route, Single, Version
from contpeft.strategies.features import Features

__all__ = ["Answerer", "best_labels", "task_choice"]


class Answerer:
    """Lets compositions of stored versions answer raw inputs on one model.

    Args:
        adapted: the model; it is as it was after every call.
        load: gives a version's entry and weights.
        features: computes features in batches.
        temperature: what the scores of a part are divided by before they become probabilities that are put
            together with those of others; None for a part that has no temperature.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        load: Load,
        features: Features,
        temperature: Callable[[Part], float | None] = lambda _part: None,
    ) -> None:
        self._adapted = adapted
        self._load = load
        self._features = features
        self._temperature = temperature

    def predict(
        self, composition: Composition, inputs: Sequence[Any], digest: str, among: Sequence[str] | None = None
    ) -> list[str]:
        """Returns the label ``composition`` gives each input.

        A :class:`Route` sends each row to the choice its router infers from the frozen base's
        features; the rows of one choice are answered together.

        Args:
            composition: what answers.
            inputs: raw inputs.
            digest: their content digest.
            among: the labels that may be answered; None for every label of the head.

        Raises:
            SpecError: if the head answers none of ``among``, or does not know its labels.
            BaseMismatchError: if a version was trained on another base model.
        """
        if isinstance(composition, Route):
            return self._routed(composition, inputs, digest, among)
        if isinstance(composition, Parallel):
            return self._together(composition, inputs, digest, among)
        if isinstance(composition, Base):
            raise SpecError("the bare base has no head to answer with; compose a stored version")
        return self._single(composition, inputs, digest, among)

    def _routed(
        self, route: Route, inputs: Sequence[Any], digest: str, among: Sequence[str] | None
    ) -> list[str]:
        router = self._statistics_head(route.router)
        choices = router.route(self._features.base(inputs, digest)).tolist()
        if max(choices) >= len(route.choices):
            raise SpecError(
                f"{route.router} tells {max(router.groups) + 1} tasks apart, the route has "
                f"{len(route.choices)} choices; give one for each"
            )
        labels = [""] * len(inputs)
        for index in sorted(set(choices)):
            rows = [row for row, choice in enumerate(choices) if choice == index]
            # A part of the data must never be found under the digest of the whole.
            part = [inputs[row] for row in rows], f"{digest}[{index} of {route.router}]"
            answered = self._single(route.choices[index], *part, among)
            for row, label in zip(rows, answered, strict=True):
                labels[row] = label
        return labels

    def _together(
        self, parallel: Parallel, inputs: Sequence[Any], digest: str, among: Sequence[str] | None
    ) -> list[str]:
        told: dict[str, list[Tensor]] = {}
        for choice in parallel.choices:
            scores, classes = self.scores(choice, inputs, digest)
            scaled = scores.double() / (self._temperature(choice) or 1.0)
            for label, probability in zip(classes, scaled.softmax(1).T, strict=True):
                told.setdefault(label, []).append(probability)
        joined = [torch.stack(each) for each in told.values()]
        put = [each.amax(0) if parallel.by == "max" else each.mean(0) for each in joined]
        return best_labels(torch.stack(put, 1), tuple(told), among, str(parallel))

    def _single(
        self, single: Part, inputs: Sequence[Any], digest: str, among: Sequence[str] | None
    ) -> list[str]:
        scores, classes = self.scores(single, inputs, digest)
        return best_labels(scores, classes, among, single.answering)

    def scores(self, single: Part, inputs: Sequence[Any], digest: str) -> tuple[Tensor, tuple[str, ...]]:
        """Returns the scores ``(n, C)`` of what one head answers for, and the label of each column.

        Args:
            single: what answers.
            inputs: raw inputs, as the module's ``collate`` takes them.
            digest: their content digest.

        Raises:
            SpecError: if the head does not know its labels.
            BaseMismatchError: if a version was trained on another base model.
        """
        held = {single.answering: self._load(single.answering)}  # of a long sum no more than this

        def load(ref: str) -> tuple[Version, AdapterState]:
            return held[ref] if ref in held else self._load(ref)

        if isinstance(single, Single) and load(single.ref)[0].kind == "statistics":
            if single.head is not None:
                raise SpecError(f"{single.ref} holds class statistics; it answers with no other head")
            statistics = self._statistics_head(single.ref)
            return statistics(self._features.base(inputs, digest)), statistics.classes
        head = held[single.answering][1].head
        if head is None or not head.classes:
            raise SpecError(f"the head of {single.answering} does not know the labels of its outputs")
        with self._adapted.applied(single, load):
            return self._features.scores(inputs), head.classes

    def _statistics_head(self, ref: str) -> StatisticsHead:
        version, state = self._load(ref)
        self._adapted.check_base(version)
        if state.head is None or state.head.kind != "statistics":
            raise SpecError(f"{version.ref} holds no class statistics; it cannot infer a class or a task")
        return StatisticsHead(state.head, state.head_tensors())


def best_labels(scores: Tensor, classes: Sequence[str], among: Sequence[str] | None, what: str) -> list[str]:
    """Returns the label of the highest score of each row.

    Args:
        scores: ``(n, len(classes))``.
        classes: the label of each column.
        among: the labels that may be answered; None for all.
        what: names the head in an error.

    Raises:
        SpecError: if no column is among ``among``.
    """
    columns = [i for i, label in enumerate(classes) if among is None or label in among]
    if not columns:
        raise SpecError(f"{what} answers none of: {', '.join(among or ())}; it knows: {', '.join(classes)}")
    best: Tensor = scores[:, columns].argmax(1)
    return [classes[columns[index]] for index in best.tolist()]


def task_choice(composition: Composition, group: int) -> Composition:
    """Returns what answers when the task is known: its own choice among several, else the composition."""
    if isinstance(composition, Parallel) and composition.by == "max":
        return composition
    return composition.choices[group] if isinstance(composition, Route | Parallel) else composition
