"""How far gates have moved on the rows of earlier tasks, apart from what became of adapters and heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor
from torch.nn import functional as F

from contpeft.experiments.tasks import TaskStream
from contpeft.spec import Composition, Gated
from contpeft.store import Step
from contpeft.strategies import Context
from contpeft.strategies.gating import gate_weights

__all__ = ["gate_drift", "moved"]


def gate_drift(
    context: Context, stream: TaskStream, earlier: Iterable[Step], now: Mapping[str, Composition]
) -> dict[str, dict[str, float]]:
    """Returns what :func:`moved` says of the test rows of each earlier task, by the task's name.

    The weights of then are those of the way's main answer when the task had just been learnt, which names its
    gates; adapters with gates stay as they are, so that nothing but weights and head has changed since.

    Args:
        context: the way's context.
        stream: has the test rows.
        earlier: the way's finished steps.
        now: what answers now; there is nothing to tell if the main one has no gates.
    """
    main, found = now.get("main"), {}
    for step in earlier:
        then = step.answers.get("main")
        if isinstance(main, Gated) and isinstance(then, Gated) and step.step < context.step:
            test = stream[step.step].test
            rows = context.features.embedded(test.inputs, test.digest())
            weights = [gate_weights(each, context.load, rows) for each in (then, main)]
            found[step.task] = moved(*weights)
    return found


def moved(then: Tensor, now: Tensor) -> dict[str, float]:
    """Returns how far weights have moved: the sum of ``|now - then|`` over adapters, the mean over rows.

    Args:
        then: ``(n, N)``.
        now: ``(n, M)`` with ``M >= N``; of adapters that came later the weight was 0.

    Returns:
        ``"earlier"``, the part of the first ``N`` adapters, and ``"later"``, that of the others.
    """
    change = (now - F.pad(then, (0, now.shape[1] - then.shape[1]))).abs().double()
    parts = {"earlier": change[:, : then.shape[1]], "later": change[:, then.shape[1] :]}
    return {name: float(part.sum(1).mean()) for name, part in parts.items()}
