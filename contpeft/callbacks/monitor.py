"""The callback that measures earlier tasks while a new one is learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from typing import Any, Literal

import lightning.pytorch as L
from torch import Tensor

from contpeft.adapters import AdaptedModel, tensor_items
from contpeft.callbacks.continual import ContinualAdapter
from contpeft.callbacks.shared import rank_zero_first
from contpeft.digest import json_digest, tensors_digest
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterRef, Score, Single
from contpeft.store import AdapterStore
from contpeft.strategies import composition_key, evaluating, state_key

__all__ = ["ForgettingMonitor"]

Predict = Callable[[L.LightningModule, Any], Tensor]
Labels = Callable[[Any], Tensor]


class ForgettingMonitor(L.Callback):
    """Measures accuracy on earlier tasks and writes it to the store and the logger.

    Logged as ``acc/<task>``, a name that does not change with the number of tasks. Under
    several processes rank zero measures on the whole loader, so no row is counted twice.

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
        self._store = store
        self._answered_by = answered_by
        self._when = when
        self._predict = predict or _predict
        self._labels = labels or _labels

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Checks that every earlier task is in the store before anything is trained.

        Raises:
            NotFoundError: if one is not.
            UnsupportedError: if no :class:`ContinualAdapter` comes before this callback.
        """
        if stage == "fit":
            _continual(trainer)
            if self._answered_by == "own":
                for ref in self.earlier:
                    self._open().resolve(ref)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs ``acc/<task>`` when measuring each epoch; the sanity check is not an epoch."""
        if self._when == "epoch" and not trainer.sanity_checking:
            for task, score in self._measure(trainer, pl_module).items():
                pl_module.log(f"acc/{task}", score.value, add_dataloader_idx=False, rank_zero_only=True)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measures every earlier task, stores the scores and logs them."""
        with rank_zero_first(trainer, "measuring earlier tasks") as here:
            if here:
                self._write(trainer, self._measure(trainer, pl_module))

    def _write(self, trainer: L.Trainer, scores: Mapping[str, Score]) -> None:
        if _continual(trainer).registered:  # not in a fast_dev_run
            store = self._open()
            store.start_run(self.run, config={}, seed=0, tasks=[], scenario="task-incremental")
            store.add_scores(list(scores.values()))
        values = {f"acc/{task}": score.value for task, score in scores.items()}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _open(self) -> AdapterStore:
        return self._store if isinstance(self._store, AdapterStore) else AdapterStore(self._store)

    def _measure(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Score]:
        """Returns a score per earlier task; nothing on other ranks than zero."""
        if not trainer.is_global_zero:
            return {}
        adapted, store = AdaptedModel.of(pl_module), self._open()
        scores = {}
        for ref, loader in self.earlier.items():
            task = AdapterRef.parse(ref).name
            with self._answering(adapted, store, ref) as composition, evaluating(pl_module):
                value, n, data = self._accuracy(pl_module, loader, task)
            scores[task] = Score(
                run=self.run,
                way=self._current_ref(trainer),
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
    def _answering(self, adapted: AdaptedModel, store: AdapterStore, ref: str) -> Iterator[str]:
        """Lets the chosen adapter answer inside the block; yields the key of what answers."""
        if self._answered_by == "current":
            yield state_key(adapted.state(), adapted.base)
            return
        own = Single(store.resolve(ref))
        with adapted.applied(own, lambda each: (store.show(each), store.load(each))):
            yield composition_key(own, adapted.base, store.show)

    def _accuracy(
        self, pl_module: L.LightningModule, loader: Iterable[Any], task: str
    ) -> tuple[float, int, str]:
        """Returns accuracy, number of rows, and the digest of the rows."""
        hits, n, digests = 0, 0, []
        for batch in loader:
            digests.append(tensors_digest(tensor_items(_tensors(batch))))
            moved = pl_module.transfer_batch_to_device(batch, pl_module.device, 0)
            labels = self._labels(moved)
            hits += int((self._predict(pl_module, moved).argmax(-1) == labels).sum())
            n += len(labels)
        if n == 0:
            raise SpecError(f"the loader of earlier task {task!r} is empty")
        return hits / n, n, json_digest(digests)

    def _current_ref(self, trainer: L.Trainer) -> str:
        continual = _continual(trainer)
        return continual.registered[0].ref if continual.registered else continual.task.name


def _continual(trainer: L.Trainer) -> ContinualAdapter:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ForgettingMonitor):
            break
        if isinstance(callback, ContinualAdapter):
            return callback
    raise UnsupportedError("ForgettingMonitor needs a ContinualAdapter before it in the Trainer's callbacks")


def _predict(pl_module: L.LightningModule, batch: Any) -> Tensor:
    outputs = pl_module.predict_step(batch, 0)
    scores = getattr(outputs, "logits", outputs)
    if not isinstance(scores, Tensor):
        raise UnsupportedError(
            f"{type(pl_module).__name__}.predict_step returns {type(scores).__name__}, not scores; "
            "pass ForgettingMonitor(predict=...)"
        )
    return scores


def _labels(batch: Any) -> Tensor:
    labels = batch.get("labels") if isinstance(batch, Mapping) else batch[-1]
    if not isinstance(labels, Tensor):
        raise UnsupportedError("no 'labels' in the batch; pass ForgettingMonitor(labels=...)")
    return labels


def _tensors(batch: Any) -> dict[str, Tensor]:
    items = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return {str(key): value for key, value in items if isinstance(value, Tensor)}
