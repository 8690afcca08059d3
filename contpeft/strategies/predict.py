"""What a composition answers: predicted labels, row by row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from contpeft.adapters import AdaptedModel, Load, StatisticsHead
from contpeft.errors import SpecError
from contpeft.spec import (
    AdapterState,
    Arrow,
    Base,
    Choices,
    Composition,
    Concat,
    Mix,
    Parallel,
    Part,
    Route,
    Single,
    Surest,
    Version,
)
from contpeft.strategies.features import Features
from contpeft.strategies.mixing import arrow_features, mixed_features
from contpeft.strategies.over import features_of, read_by
from contpeft.strategies.sureness import joined_probabilities, likeliest, sureness

__all__ = ["Answerer", "best_labels", "task_choice"]

_HEADS: Final = 8

Scored = tuple[Tensor, tuple[str, ...]]
"""Scores ``(n, C)``, and the label of each column."""


class Answerer:
    """Lets compositions of stored versions answer raw inputs on one model.

    Args:
        adapted: the model; it is as it was after every call.
        load: gives a version's entry and weights.
        features: computes features in batches.
        temperature: what the scores of a part are divided by before they become probabilities that are put
            together with those of others; None for a part that has no temperature.
        kept: where scores are kept by what gives them and the data's digest, for questions that differ in the
            labels that may be answered; None to compute them for every question.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        load: Load,
        features: Features,
        temperature: Callable[[Part | Concat], float | None] = lambda _part: None,
        kept: dict[tuple[Part | Concat, str], Scored] | None = None,
    ) -> None:
        self._adapted = adapted
        self._load = load
        self._features = features
        self._temperature = temperature
        self._kept = kept
        self._heads: OrderedDict[str, StatisticsHead] = OrderedDict()

    def predict(
        self, composition: Composition, inputs: Sequence[Any], digest: str, among: Sequence[str] | None = None
    ) -> list[str]:
        """Returns the label ``composition`` gives each input.

        A :class:`Route` sends each row to the choice its router infers from the features it reads; the
        rows of one choice are answered together.

        Args:
            composition: what answers.
            inputs: raw inputs.
            digest: their content digest.
            among: the labels that may be answered; None for every label of the head.

        Raises:
            SpecError: if the head answers none of ``among``, does not know its labels, or holds statistics
                of other features than those it is given.
            BaseMismatchError: if a version was trained on another base model.
        """
        if isinstance(composition, Route):
            return self._routed(composition, inputs, digest, among)
        if isinstance(composition, Surest):
            return self._by_the_surest(composition, inputs, digest, among)
        if isinstance(composition, Parallel | Mix | Arrow):
            scores, classes = self._together(composition, inputs, digest)
            return best_labels(scores, classes, among, str(composition))
        if isinstance(composition, Base):
            raise SpecError("the bare base has no head to answer with; compose a stored version")
        return self._single(composition, inputs, digest, among)

    def task_scores(
        self, router: str, inputs: Sequence[Any], digest: str, choices: int | None = None
    ) -> Tensor:
        """Returns how well each row fits each task, ``(n, T)``: the score of its best class.

        Args:
            router: the version that holds the class statistics.
            inputs: raw inputs.
            digest: their content digest.
            choices: how many tasks may be told apart; None for any number.

        Raises:
            SpecError: if it holds no class statistics, or tells more tasks apart.
            BaseMismatchError: if it was gathered on another base model.
        """
        head = self._statistics_head(router)
        known = max(head.groups) + 1
        if choices is not None and known > choices:
            raise SpecError(
                f"{router} tells {known} tasks apart, the route has {choices} choices; give one for each"
            )
        return head.of_groups(self._features.through(read_by(head), self._load, inputs, digest))

    def _routed(
        self, route: Route, inputs: Sequence[Any], digest: str, among: Sequence[str] | None
    ) -> list[str]:
        choices = self.task_scores(route.router, inputs, digest, len(route.choices)).argmax(1).tolist()
        labels = [""] * len(inputs)
        for index in sorted(set(choices)):
            rows = [row for row, choice in enumerate(choices) if choice == index]
            # A part of the data must never be found under the digest of the whole.
            part = [inputs[row] for row in rows], f"{digest}[{index} of {route.router}]"
            answered = self._single(route.choices[index], *part, among)
            for row, label in zip(rows, answered, strict=True):
                labels[row] = label
        return labels

    def _by_the_surest(
        self, surest: Surest, inputs: Sequence[Any], digest: str, among: Sequence[str] | None
    ) -> list[str]:
        told = [self.scores(choice, inputs, digest) for choice in surest.choices]
        temperatures = [self._temperature(choice) or 1.0 for choice in surest.choices]
        sure = [sureness(s, t, surest.by) for (s, _), t in zip(told, temperatures, strict=True)]
        chosen = torch.stack(sure, 1).argmax(1).tolist()
        answered = [
            best_labels(scores, classes, among, choice.answering) if index in chosen else []
            for index, ((scores, classes), choice) in enumerate(zip(told, surest.choices, strict=True))
        ]
        return [answered[choice][row] for row, choice in enumerate(chosen)]

    def _together(self, several: Parallel | Mix | Arrow, inputs: Sequence[Any], digest: str) -> Scored:
        """Returns probabilities over all labels that any choice knows."""
        temperatures = [self._temperature(choice) or 1.0 for choice in several.choices]
        if isinstance(several, Parallel):
            told = [self.scores(choice, inputs, digest) for choice in several.choices]
            return joined_probabilities(told, temperatures, by=several.by)
        mixed = self._adapted.mixed(several.choices, self._load)
        if isinstance(several, Arrow):
            how = (several.top, several.temperature)
            features = arrow_features(self._adapted, self._features, mixed, inputs, how)
            return joined_probabilities(mixed.scores(features), temperatures)
        fits = self.task_scores(several.router, inputs, digest, len(several.choices))
        weights = likeliest(fits, several.top, several.temperature)
        features = mixed_features(self._adapted, self._features, mixed, inputs, weights)
        return joined_probabilities(mixed.scores(features), temperatures, weights)

    def _single(
        self, single: Part | Concat, inputs: Sequence[Any], digest: str, among: Sequence[str] | None
    ) -> list[str]:
        scores, classes = self.scores(single, inputs, digest)
        return best_labels(scores, classes, among, single.answering)

    def scores(self, single: Part | Concat, inputs: Sequence[Any], digest: str) -> Scored:
        """Returns the scores ``(n, C)`` of what one head answers for, and the label of each column.

        Args:
            single: what answers.
            inputs: raw inputs, as the module's ``collate`` takes them.
            digest: their content digest.

        Raises:
            SpecError: if the head does not know its labels, or holds statistics of other features.
            BaseMismatchError: if a version was trained on another base model.
        """
        if self._kept is None:
            return self._scores(single, inputs, digest)
        if (single, digest) not in self._kept:
            self._kept[single, digest] = self._scores(single, inputs, digest)
        return self._kept[single, digest]

    def _scores(self, single: Part | Concat, inputs: Sequence[Any], digest: str) -> Scored:
        held = {single.answering: self._load(single.answering)}  # of a long sum no more than this

        def load(ref: str) -> tuple[Version, AdapterState]:
            return held[ref] if ref in held else self._load(ref)

        if isinstance(single, Single) and single.head and load(single.ref)[0].kind == "statistics":
            raise SpecError(f"{single.ref} holds class statistics; it answers with no other head")
        if isinstance(single, Concat) or held[single.answering][0].kind == "statistics":
            return self._by_statistics(single, inputs, digest)
        head = held[single.answering][1].head
        if head is None or not head.classes:
            raise SpecError(f"the head of {single.answering} does not know the labels of its outputs")
        with self._adapted.applied(single, load):
            return self._features.scores(inputs), head.classes

    def _by_statistics(self, what: Part | Concat, inputs: Sequence[Any], digest: str) -> Scored:
        head, asked = self._statistics_head(what.answering), features_of(what)
        if asked != read_by(head):
            told = " and ".join(map(str, read_by(head)))
            raise SpecError(
                f"{what.answering} holds class statistics of the features of {told}, "
                f"not of {' and '.join(map(str, asked))}; compose it with what it was gathered over"
            )
        return head(self._features.through(asked, self._load, inputs, digest)), head.classes

    def _statistics_head(self, ref: str) -> StatisticsHead:
        if ref not in self._heads:
            version, state = self._load(ref)
            self._adapted.check_base(version)
            if state.head is None or state.head.kind != "statistics":
                raise SpecError(f"{version.ref} holds no class statistics; it cannot infer a class or a task")
            # The same heads answer for one data set after another, and some cost a large system to solve.
            self._heads[ref] = StatisticsHead(state.head, state.head_tensors())
            if len(self._heads) > _HEADS:
                self._heads.popitem(last=False)
        return self._heads[ref]


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
    if isinstance(composition, Parallel) and composition.by != "mean":
        return composition
    return composition.choices[group] if isinstance(composition, Choices) else composition
