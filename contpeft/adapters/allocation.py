"""AdaLoRA's allocation of ranks: a budget falls step by step, and the least important directions go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from contpeft.adapters.attachment import Attachment
from contpeft.adapters.dynamics import Dynamics
from contpeft.errors import SpecError

__all__ = ["RankAllocation"]

_KEPT: Final = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # the allocator's running scores, by PEFT's names


class RankAllocation(Dynamics):
    """Allocates ranks after each step, and keeps the factors close to orthogonal (Zhang et al., 2023).

    The scores and the schedule are PEFT's (section 3.2 and 3.3 of the paper). What is left of each module's
    rank in the end is what the adapter consists of from then on. An adapter that was stored keeps its ranks.

    Args:
        attachment: an AdaLoRA adapter.
        planned: whether its configuration says over how many steps the budget falls; the fit's length does
            otherwise.
    """

    idle = False
    alone = True

    def __init__(self, attachment: Attachment, *, planned: bool = True) -> None:
        self._attachment = attachment
        self._config: Any = attachment.config
        self._settled = self._config.rank_pattern is not None
        self._resumed: dict[str, dict[str, Tensor]] = {}
        self._prepared = False
        self.plans = not planned and not self._settled

    def prepare(self, total_steps: int | None) -> None:
        """Plans the budget's fall.

        Raises:
            SpecError: if the fit is too short for the schedule or has no end, or nothing is to be pruned.
        """
        config = self._config
        if self._settled:
            return
        if config.target_r >= config.init_r:
            raise SpecError(
                f"adalora prunes rank init_r={config.init_r} down to target_r={config.target_r}, which is no "
                "less; give a target_r below init_r"
            )
        if self.plans:
            config.total_step = _checked_length(config, total_steps)
        self._prepared = True

    def after_step(self, step: int) -> None:
        """Scores what was trained and sets the least important directions to zero."""
        if not self._prepared:
            return
        parameters = self._attachment.trainable()
        self._take_up(parameters)
        graded = [p.grad for p in parameters if p.grad is not None]
        if all(bool(grad.isfinite().all()) for grad in graded):  # a scaler skips a step of others
            with _all_graded(parameters):
                self._attachment.allocate_ranks(step)

    def loss(self) -> Tensor | None:
        """Returns ``orth_reg_weight`` times the factors' mean distance from orthogonal ones."""
        distances = [
            torch.linalg.matrix_norm(gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
            for gram in map(_gram, *zip(*self._factors(), strict=True))
        ]
        weight: float = self._config.orth_reg_weight
        return weight * torch.stack(distances).mean()

    def finish(self, steps: int) -> None:
        """Cuts the factors down to the ranks that are left."""
        config = self._config
        if not self._prepared or self._settled:
            return
        end = config.total_step - config.tfinal
        if steps == end:  # the last allocation falls behind the last step
            self._take_up(self._attachment.trainable())
            self._attachment.allocate_ranks(end)
        if config.rank_pattern:
            self._attachment.cut_ranks()
        self._settled, self._prepared = True, False

    def state(self) -> dict[str, Any]:
        """Returns the running scores and the pattern of ranks."""
        allocator = self._attachment.tuner.rankallocator
        scores = self._resumed or {name: dict(getattr(allocator, name)) for name in _KEPT}
        return scores | {"rank_pattern": self._config.rank_pattern}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Takes up scores and pattern."""
        self._config.rank_pattern = state["rank_pattern"]
        self._resumed = {name: state[name] for name in _KEPT}

    def _take_up(self, parameters: list[nn.Parameter]) -> None:
        """Gives the allocator the scores of before, where the parameters are by now."""
        device = parameters[0].device
        for name, scores in self._resumed.items():
            moved = {key: score.to(device) for key, score in scores.items()}
            setattr(self._attachment.tuner.rankallocator, name, moved)
        self._resumed = {}

    def _factors(self) -> Iterator[tuple[nn.Parameter, bool]]:
        """Yields the factors ``(r, in)`` and ``(out, r)``, each with whether its rank is its first."""
        for _, place in self._attachment.places():
            for name, parameter in place.module.named_parameters():
                if "lora_A" in name or "lora_B" in name:
                    yield parameter, "lora_A" in name


def _gram(factor: Tensor, rank_first: bool) -> Tensor:
    return factor @ factor.T if rank_first else factor.T @ factor


def _checked_length(config: Any, total_steps: int | None) -> int:
    if total_steps is None:
        raise SpecError(
            "adalora plans over all steps, and this fit has no planned end; give the method a total_step, "
            "or the Trainer max_epochs or max_steps"
        )
    if total_steps - config.tfinal <= config.tinit:
        raise SpecError(
            f"adalora has no step to prune in: the fit has {total_steps}, tinit={config.tinit} and "
            f"tfinal={config.tfinal} are kept free; train longer, or give less of these"
        )
    return total_steps


@contextmanager
def _all_graded(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Lets parameters that no batch reached have a gradient of zero inside the block."""
    bare = [p for p in parameters if p.grad is None]
    for parameter in bare:
        parameter.grad = torch.zeros_like(parameter)
    try:
        yield
    finally:
        for parameter in bare:
            parameter.grad = None
