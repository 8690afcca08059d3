"""Which of its members a fusion attends to: on average, and token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters.fusion import Kept
from contpeft.experiments.evaluation import Evaluation
from contpeft.experiments.examples import Examples
from contpeft.spec import Version

__all__ = ["Attention", "TaskAttention", "mean_attention", "token_maps"]


@dataclass(frozen=True)
class TaskAttention:
    """What the tokens of one task attend to.

    Attributes:
        task: its name.
        rows: number of rows that were read.
        digest: of these rows.
        means: mean attention, a row for each site and in it a column for each member.
    """

    task: str
    rows: int
    digest: str
    means: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Attention:
    """What a fusion attends to.

    Attributes:
        ref: the fusion.
        members: references of the versions it is over.
        sites: paths of the modules where it mixes them.
        tasks: task by task.
    """

    ref: str
    members: tuple[str, ...]
    sites: tuple[str, ...]
    tasks: tuple[TaskAttention, ...]

    @property
    def means(self) -> tuple[tuple[float, ...], ...]:
        """Mean attention over the tasks, each counted alike; sites by members."""
        return tuple(
            tuple(fmean(cells) for cells in zip(*rows, strict=True))
            for rows in zip(*(each.means for each in self.tasks), strict=True)
        )

    def by_site(self) -> dict[str, tuple[float, ...]]:
        """Returns :attr:`means` by the path of the site."""
        return dict(zip(self.sites, self.means, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return asdict(self) | {"means": self.means}


def mean_attention(evaluation: Evaluation, ref: str, rows: Mapping[str, Examples]) -> Attention:
    """Returns the mean attention of every site of a fusion, over the tokens of each task.

    Padding, where batches tell of it, is left out.

    Args:
        evaluation: has the model.
        ref: the fusion.
        rows: what it reads, by the name of the task.

    Raises:
        UsageError: if the version is no fusion.
        BaseMismatchError: if it was trained on another base model.
    """
    version = evaluation.show(ref)
    found = {name: _means(evaluation, version, own) for name, own in rows.items()}
    sites = tuple(next(iter(found.values())))
    tasks = (
        TaskAttention(name, len(rows[name]), rows[name].digest(), tuple(means[site] for site in sites))
        for name, means in found.items()
    )
    return Attention(version.ref, _members(version), sites, tuple(tasks))


def token_maps(evaluation: Evaluation, ref: str, rows: Examples) -> dict[str, Tensor]:
    """Returns the attention of every token, ``(B, T, N)`` of each site by its path.

    ``T`` is that of the longest row; NaN where a row has ended. Members that a site does not keep get 0.

    Args:
        evaluation: has the model.
        ref: the fusion.
        rows: what it reads.

    Raises:
        UsageError: if the version is no fusion.
        BaseMismatchError: if it was trained on another base model.
    """
    version, found = evaluation.show(ref), dict[str, list[Tensor]]()

    def see(weights: Mapping[str, Tensor], batch: Any) -> None:
        for site, own in _spread(weights, version).items():
            blank = ~_there(own, batch)
            found.setdefault(site, []).append(own.masked_fill(blank.unsqueeze(-1), torch.nan))

    evaluation.attention(version.ref, rows, see)
    return {site: _joined(batches) for site, batches in found.items()}


def _means(evaluation: Evaluation, version: Version, rows: Examples) -> dict[str, tuple[float, ...]]:
    sums, counts = dict[str, Tensor](), dict[str, int]()

    def see(weights: Mapping[str, Tensor], batch: Any) -> None:
        for site, own in _spread(weights, version).items():
            tokens = own[_there(own, batch)].double()
            sums[site] = sums.get(site, 0) + tokens.sum(0)
            counts[site] = counts.get(site, 0) + len(tokens)

    evaluation.attention(version.ref, rows, see)
    return {site: tuple((total / counts[site]).tolist()) for site, total in sums.items()}


def _members(version: Version) -> tuple[str, ...]:
    return tuple(str(entry["ref"]) for entry in version.config["over"])


def _spread(weights: Mapping[str, Tensor], version: Version) -> dict[str, Tensor]:
    """Returns weights with a column for each member, 0 for those that a site does not keep."""
    kept: Kept | None = version.config.get("kept")
    if kept is None:
        return {site: own.cpu() for site, own in weights.items()}
    return {site: _columns(own.cpu(), kept[site], version) for site, own in weights.items()}


def _columns(weights: Tensor, places: Sequence[int], version: Version) -> Tensor:
    wide = weights.new_zeros(*weights.shape[:-1], len(version.config["over"]))
    wide[..., list(places)] = weights
    return wide


def _there(weights: Tensor, batch: Any) -> Tensor:
    """Returns which of the positions ``(B, T)`` are tokens and not padding."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if not isinstance(mask, Tensor) or mask.shape != weights.shape[:2]:
        return torch.ones(weights.shape[:2], dtype=torch.bool)
    return mask.cpu().bool()


def _joined(batches: Sequence[Tensor]) -> Tensor:
    longest = max(each.shape[1] for each in batches)
    return torch.cat([F.pad(each, (0, 0, 0, longest - each.shape[1]), value=torch.nan) for each in batches])
