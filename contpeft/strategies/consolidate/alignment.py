"""Consolidate: the classifier is trained again, on features drawn for all classes seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft.adapters import build_head, head_state
from contpeft.errors import SpecError
from contpeft.spec import AdapterState, Parent, Version
from contpeft.strategies.about import About
from contpeft.strategies.context import Context
from contpeft.strategies.gaussians import Covariance, draw, fitted

__all__ = ["AlignClassifier"]


class _Drawn(NamedTuple):
    """Features ``(n, d)``, the head's column of each, and the columns of each task."""

    features: Tensor
    columns: Tensor
    tasks: list[list[int]]


@dataclass(frozen=True)
class AlignClassifier:
    """Classifier alignment: the head alone is trained on Gaussian features of every class seen.

    Zhang et al. 2023, "SLCA: Slow Learner with Classifier Alignment", ICCV, arXiv 2303.05118, section 3.3.
    The loss is cross-entropy over ``l / (0.1 m)`` with ``m`` the mean over tasks of the norm of a row's
    scores for that task's classes. Deviations: plain SGD with momentum (no cosine schedule, no decay), means
    are not rescaled for old tasks, and covariances are shrunk, for classes with fewer examples than features.

    Attributes:
        draws: features a class.
        epochs: passes over what was drawn.
        learning_rate: of SGD with momentum 0.9.
        temperature: what normed scores are divided by.
        covariance: of each class, its diagonal, or one for a task's classes.
        shrinkage: of a covariance matrix towards a multiple of the identity.
    """

    about: ClassVar[About] = About(
        paper="Zhang et al. 2023, arXiv 2303.05118, section 3.3",
        growth="d + d^2 a class",
        needs=frozenset({"examples", "features"}),
    )

    draws: int = 256
    epochs: int = 5
    learning_rate: float = 0.01
    temperature: float = 0.1
    covariance: Covariance = "full"
    shrinkage: float = 0.1

    def end(self, context: Context, trained: Version | None) -> tuple[Version, ...]:
        """Keeps the Gaussians of the task's classes, aligns, and registers the adapter with its new head.

        Raises:
            SpecError: if there is no head over the classes of all tasks.
        """
        if trained is None or trained.head is None:
            raise SpecError("a classifier is aligned once an adapter with a head was trained; there is none")
        kept = self._keep(context)
        context.registered += (kept,)
        state = context.state(trained.head.classes)
        drawn = self._drawn(context, trained.head.classes)
        aligned = self._aligned(state, drawn, context.seed)
        parents = (Parent(trained.ref, "continued"),)
        version = context.store.register(
            trained.name,
            aligned,
            base=context.adapted.base,
            parents=parents,
            recipe={"aligned": trained.ref},
            run=context.run,
            task=context.task.name,
            data=trained.data,
        )
        return (kept, version)

    def _keep(self, context: Context) -> Version:
        data = context.training_data("classifier alignment")
        features, classes = context.features.current(data.inputs, data.digest), context.task.classes
        gaussians = fitted(features, data.labels, classes, self.covariance)
        tensors = {name: tensor.float() for name, tensor in gaussians.items()}
        return context.remember(_part(context.step), tensors, {"classes": list(classes)})

    def _drawn(self, context: Context, classes: Sequence[str]) -> _Drawn:
        generator = torch.Generator().manual_seed(context.seed)
        features, columns, tasks = [], [], []
        for state in filter(None, (context.recall(_part(step)) for step in range(context.step + 1))):
            gaussians = {name: tensor.double() for name, tensor in state.tensors.items()}
            own = torch.tensor([classes.index(label) for label in state.config["classes"]])
            drawn, which = draw(gaussians, self.draws, self.shrinkage, generator)
            features.append(drawn.float())
            columns.append(own[which])
            tasks.append(own.tolist())
        return _Drawn(torch.cat(features), torch.cat(columns), tasks)

    def _aligned(self, state: AdapterState, drawn: _Drawn, seed: int) -> AdapterState:
        assert state.head is not None  # end() has seen to it
        head = build_head(state.head, state.head_tensors())
        self._train(head, drawn, torch.Generator().manual_seed(seed))
        return replace(state, tensors={**state.adapter_tensors(), **head_state(head).tensors})

    def _train(self, head: nn.Module, drawn: _Drawn, generator: torch.Generator) -> None:
        optimizer = torch.optim.SGD(head.parameters(), lr=self.learning_rate, momentum=0.9)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(drawn.features), generator=generator).split(self.draws):  # type: ignore[no-untyped-call]
                scores = head(drawn.features[rows])
                norms = torch.stack([scores[:, own].norm(dim=1) for own in drawn.tasks]).mean(0)
                normed = scores / (self.temperature * norms + 1e-7)[:, None]
                optimizer.zero_grad()
                F.cross_entropy(normed, drawn.columns[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()


def _part(step: int) -> str:
    return f"gaussians-{step}"
