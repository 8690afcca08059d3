"""Class prototypes in the subspace of every adapter, those of old classes in new ones synthesised.

Zhou et al. 2024, "Expandable Subspace Ensemble for Pre-Trained Model-Based Class-Incremental Learning", CVPR,
arXiv 2403.12030, sections 4.2 and 4.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters.statistics.gathering import head_options
from contpeft.errors import SpecError
from contpeft.spec import HeadSpec

__all__ = ["SUBSPACES", "SubspacePrototypes"]

SUBSPACES: Final = "subspaces"


class SubspacePrototypes:
    """A prototype of every class in the subspace of every adapter.

    A task's own data gives those of its classes in all subspaces so far. An old class has met the new adapter
    never: there its prototype is the mean of those of the new classes, weighted by how alike they are in the
    subspace of the old class's own task.

    Attributes:
        labels: label of each entry.
        groups: the task index of each entry, which is also its own subspace.
        prototypes: ``(C, T, d)``, float64, of unit length or shorter.
    """

    def __init__(self) -> None:
        self.labels: list[str] = []
        self.groups: list[int] = []
        self.prototypes = torch.empty(0, 0, 0, dtype=torch.float64)

    def update(self, features: Tensor, labels: Sequence[str], group: int) -> None:
        """Adds a task.

        Args:
            features: ``(n, T d)``, those of the adapters of all ``T = group + 1`` tasks side by side.
            labels: their label names.
            group: index of the task, one more than that of the task before.

        Raises:
            SpecError: if a task was left out, or the features are not those of so many adapters.
        """
        known = self.prototypes.shape[1]
        if group != known or features.shape[1] % (group + 1):
            raise SpecError(
                f"task {group} brings features of {group + 1} adapters one after another; there are "
                f"prototypes of {known}, and features of width {features.shape[1]}"
            )
        blocks = F.normalize(features.detach().cpu().double().reshape(len(features), group + 1, -1), dim=2)
        names = list(dict.fromkeys(labels))
        rows = [[row for row, label in enumerate(labels) if label == name] for name in names]
        new = torch.stack([blocks[each].mean(0) for each in rows])
        if known:
            new = torch.cat([torch.cat([self.prototypes, self._synthesised(new)[:, None]], 1), new])
        self.prototypes = new
        self.labels += names
        self.groups += [group] * len(names)

    def _synthesised(self, new: Tensor) -> Tensor:
        """Returns the prototypes ``(C, d)`` of the old classes in the newest subspace."""
        own = torch.tensor(self.groups)
        old = F.normalize(self.prototypes[torch.arange(len(own)), own], dim=1)
        there = F.normalize(new[:, own], dim=2)  # the new classes in the subspace of each old one
        alike = torch.einsum("cd,ncd->cn", old, there).softmax(1)
        return alike @ new[:, -1]

    def tensors(self) -> dict[str, Tensor]:
        """Returns the prototypes as named tensors."""
        return {"prototypes": self.prototypes.clone()}

    def spec(self, share: float, over: Sequence[Mapping[str, Any]]) -> HeadSpec:
        """Returns the head these make.

        Args:
            share: what the cosine in a subspace that is not a class's own counts.
            over: the adapters, as JSON.
        """
        options = {"rule": SUBSPACES, "groups": list(self.groups), "share": share, **head_options(over)}
        return HeadSpec("statistics", tuple(self.labels), options)

    @classmethod
    def from_stored(cls, spec: HeadSpec, tensors: Mapping[str, Tensor]) -> SubspacePrototypes:
        """Returns the prototypes a version holds, to be added to."""
        self = cls()
        self.labels, self.groups = list(spec.classes), list(spec.options["groups"])
        self.prototypes = tensors["prototypes"].clone()
        return self
