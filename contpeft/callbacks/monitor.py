"""The callback that measures earlier tasks while a new one is learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal

import lightning.pytorch as L
from torch import Tensor

from contpeft.adapters import AdaptedModel
from contpeft.callbacks.batches import batch_digest, count_hits, find_labels, predict_scores
from contpeft.callbacks.continual import ContinualAdapter
from contpeft.callbacks.shared import as_store, on_rank_zero, required
from contpeft.digest import json_digest
from contpeft.errors import SpecError
from contpeft.spec import AdapterRef, Score, Single
from contpeft.store import AdapterStore
from contpeft.strategies import composition_key, evaluating, state_key

__all__ = ["ForgettingMonitor"]

Predict = Callable[[L.LightningModule, Any], Tensor]
Labels = Callable[[Any], Tensor]


class ForgettingMonitor(L.Callback):
    """Measures accuracy on earlier tasks and writes it to the store and the logger.

    Logged as ``acc/<task>`` (``acc_current/<task>`` when the adapter being trained answers), a name
    that does not change with the number of tasks. Under several processes rank zero measures on the
    whole loader, so no row is counted twice. Comes after the :class:`ContinualAdapter`.

    Example::

        ForgettingMonitor("adapters/", earlier={"refunds": refunds_loader})

    Args:
        store: the store, or its folder.
        earlier: a plain loader per earlier task, by the name its adapter has in the store (or a
            reference such as ``"refunds@2"``).
        answered_by: ``"own"``: the task's own latest version with its own head, which shows that
            isolated adapters keep their scores; ``"current"``: the adapter being trained with its
            head, which shows what it has forgotten.
        when: ``"end"`` of the fit, or after each validation ``"epoch"`` as well (logged, and
            stored at the end).
        run: the run the scores are stored under.
        predict: returns scores ``(B, C)`` of a batch; ``module.predict_step(batch, 0)`` by default,
            its ``logits`` if it returns a transformers output.
        labels: returns class indices ``(B,)`` of a batch; ``batch["labels"]`` or ``batch[-1]``
            by default.

    Raises:
        SpecError: if ``earlier`` names a task twice, or by a digest instead of its name.
    """

    def __init__(
        self,
        store: AdapterStore | str | PathLike[str],
        earlier: Mapping[str, Iterable[Any]],
        *,
        answered_by: Literal["own", "current"] = "own",
        when: Literal["end", "epoch"] = "end",
        run: str = "monitor",
        predict: Predict | None = None,
        labels: Labels | None = None,
    ) -> None:
        self.earlier = dict(earlier)
        self.run = run
        self._tasks = _names(earlier)
        self._store = as_store(store)
        self._answered_by = answered_by
        self._metric = "acc" if answered_by == "own" else "acc_current"
        self._when = when
        self._predict = predict or predict_scores
        self._labels = labels or find_labels
        self._measured = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Checks that every earlier task is in the store before anything is trained.

        Raises:
            NotFoundError: if one is not.
            UnsupportedError: if no :class:`ContinualAdapter` comes before this callback.
        """
        required(ContinualAdapter, trainer, self)
        self._measured = False
        if self._answered_by == "own":
            for ref in self.earlier:
                self._store.resolve(ref)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the accuracies when measuring each epoch; the sanity check is not an epoch."""
        if self._when == "epoch" and not trainer.sanity_checking:
            scores = self._on_rank_zero(trainer, lambda: self._measure(trainer, pl_module))
            for name, value in self._values(scores).items():
                # Equal on all ranks: their mean is the value, and ModelCheckpoint sees it everywhere.
                pl_module.log(name, value, add_dataloader_idx=False, sync_dist=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures every earlier task, stores the scores and logs them."""
        self._measured = True
        scores = self._on_rank_zero(trainer, lambda: self._store_scores(trainer, pl_module))
        for logger in trainer.loggers:
            logger.log_metrics(self._values(scores), step=trainer.global_step)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures after a fit that was resumed from its own end, where nothing was trained."""
        if not self._measured:
            self.on_train_end(trainer, pl_module)

    def _on_rank_zero(self, trainer: L.Trainer, work: Callable[[], dict[str, Score]]) -> dict[str, Score]:
        return on_rank_zero(trainer, "measuring earlier tasks", work)

    def _values(self, scores: Mapping[str, Score]) -> dict[str, float]:
        return {f"{self._metric}/{task}": score.value for task, score in scores.items()}

    def _store_scores(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Score]:
        scores = self._measure(trainer, pl_module)
        if required(ContinualAdapter, trainer, self).registered:  # not in a fast_dev_run
            self._store.start_run(self.run, config={}, seed=0, tasks=[], scenario="task-incremental")
            self._store.add_scores(scores.values())
        return scores

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Score]:
        adapted, way = AdaptedModel.of(pl_module), self._current_ref(trainer)
        scores = {}
        for (ref, loader), task in zip(self.earlier.items(), self._tasks, strict=True):
            with self._answering(adapted, ref) as composition, evaluating(pl_module):
                value, n, data = self._accuracy(trainer, pl_module, loader, task)
            scores[task] = Score(
                run=self.run,
                way=way,
                answer=self._answered_by,
                step=len(self.earlier),
                task=task,
                protocol="task_aware",
                metric="accuracy",
                value=value,
                n=n,
                composition=composition,
                data=data,
            )
        return scores

    @contextmanager
    def _answering(self, adapted: AdaptedModel, ref: str) -> Iterator[str]:
        """Lets the chosen adapter answer inside the block; yields the key of what answers."""
        if self._answered_by == "current":
            yield state_key(adapted.state(), adapted.base)
            return
        store = self._store
        own = Single(store.resolve(ref))
        with adapted.applied(own, lambda each: (store.show(each), store.load(each))):
            yield composition_key(own, adapted.base, store.show)

    def _accuracy(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loader: Iterable[Any], task: str
    ) -> tuple[float, int, str]:
        """Returns accuracy, number of rows, and the digest of the rows; batches go the trainer's way."""
        hits, n, digests = 0, 0, []
        precision = trainer.precision_plugin
        for batch in loader:
            digests.append(batch_digest(batch))
            ready = pl_module.on_before_batch_transfer(precision.convert_input(batch), 0)
            moved = trainer.strategy.batch_to_device(ready, device=pl_module.device)
            labels = self._labels(moved)
            with precision.predict_step_context():
                hits += count_hits(self._predict(pl_module, moved), labels)
            n += len(labels)
        if n == 0:
            raise SpecError(f"the loader of earlier task {task!r} is empty; give one with the task's rows")
        return hits / n, n, json_digest(digests)

    def _current_ref(self, trainer: L.Trainer) -> str:
        continual = required(ContinualAdapter, trainer, self)
        return continual.registered[0].ref if continual.registered else continual.task.name


def _names(refs: Iterable[str]) -> list[str]:
    """Returns the task each reference names; two of one name would overwrite each other's scores."""
    names = [AdapterRef.parse(ref).name for ref in refs]
    if "" in names or len(set(names)) < len(names):
        raise SpecError(
            f"earlier tasks {', '.join(refs)} are not told apart by name; name each once: 'name' or 'name@n'"
        )
    return names
