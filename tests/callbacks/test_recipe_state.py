"""What a recipe sees and keeps within one fit: the tap, the steps, the working tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import TinyModule, learn, quiet_trainer, same, task_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from contpeft import AdapterCheckpoint, AdapterStore, ContinualAdapter, Task
from contpeft.strategies import Context, FromLast, Linear, Recipe, TrainingData


@dataclass(frozen=True)
class Travelled:
    """Pulls the adapter back by how far it has travelled: a projection that sums up within the fit."""

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        moved = sum((p.detach() - before[name]).norm() for name, p in context.own_parameters.items())
        total = context.working.get("travelled", torch.zeros(())) + moved
        context.working["travelled"] = total
        with torch.no_grad():
            for parameter in context.own_parameters.values():
                parameter.mul_(1 / (1 + 0.01 * total))


@dataclass(frozen=True)
class Quiet:
    """Scores are to be small: a penalty on what the head has just said."""

    seen: list[Any]

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor:
        scores = context.tap.scores
        assert scores is not None
        assert len(scores) == len(batch["labels"])
        self.seen.append((context.steps.done, context.steps.planned, scores.requires_grad))
        return 0.1 * scores.square().mean()


def test_a_penalty_sees_the_scores_of_its_batch_and_how_far_the_fit_is(store: AdapterStore) -> None:
    seen: list[Any] = []
    learn(TinyModule(dropout=0.0), ContinualAdapter(store, "b", recipe=Recipe(penalty=Quiet(seen))), epochs=2)
    assert [done for done, _, _ in seen] == list(range(len(seen)))
    assert {(planned, grad) for _, planned, grad in seen} == {(len(seen), True)}


def test_the_tap_ends_with_the_fit(store: AdapterStore) -> None:
    module, seen = TinyModule(dropout=0.0), []
    continual = ContinualAdapter(store, "b", recipe=Recipe(penalty=Quiet(seen)))
    learn(module, continual)
    assert not module.head._forward_hooks

    class Broken(TinyModule):
        def on_train_batch_start(self, *_: Any) -> None:
            raise RuntimeError("stop")

    broken = Broken(dropout=0.0)
    with pytest.raises(RuntimeError, match="stop"):
        learn(broken, ContinualAdapter(store, "b", recipe=Recipe(penalty=Quiet(seen))))
    assert not broken.head._forward_hooks


def test_what_is_summed_up_survives_a_stop(store: AdapterStore, tmp_path: Path) -> None:
    class StopAfter(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("stop")

    def fit(task: str, *others: L.Callback, resume: Path | None = None) -> ContinualAdapter:
        torch.manual_seed(0)
        continual = ContinualAdapter(store, task, recipe=Recipe(projection=Travelled()))
        checkpoints = ModelCheckpoint(tmp_path / task, save_last=True)
        callbacks = [continual, AdapterCheckpoint(), *others, checkpoints]
        trainer = quiet_trainer(*callbacks, epochs=4, enable_checkpointing=True)
        trainer.fit(TinyModule(dropout=0.0), task_loader(), ckpt_path=resume)
        return continual

    whole = fit("whole").context.working["travelled"]
    with pytest.raises(RuntimeError, match="stop"):
        fit("broken", StopAfter())
    checkpoint = tmp_path / "broken" / "last.ckpt"
    kept = torch.load(checkpoint, weights_only=True)["callbacks"]["ContinualAdapter"]["working"]
    assert 0 < kept["travelled"] < whole
    with pytest.warns(UserWarning, match="exists and is not empty"):
        again = fit("broken", resume=checkpoint)
    assert torch.equal(again.context.working["travelled"], whole)
    assert same(dict(store.load("broken").tensors), dict(store.load("whole").tensors))


class Readable(TinyModule):
    """A module that can be asked for features, as recipes with heads of their own need it."""

    def collate(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        return {"input_ids": torch.tensor(list(inputs))}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        states: Tensor = self.model(input_ids=batch["input_ids"]).last_hidden_state
        return states.mean(1)


def test_one_head_grows_from_fit_to_fit_and_each_fit_draws_anew(store: AdapterStore) -> None:
    module, recipe = Readable(dropout=0.0), Recipe(init=FromLast(), head=Linear(grow=True))
    heads, seeds = [], []
    for task in (Task("one", ("a", "b")), Task("two", ("c", "d"))):
        data = TrainingData([[1, 2, 3], [4, 5, 6]], task.classes, task.name)
        continual = ContinualAdapter(store, task, name="way", recipe=recipe, data=data)
        learn(module, continual)
        heads.append(continual.registered[0].head.classes)
        seeds.append(continual.context.seed)
    assert heads == [("a", "b"), ("a", "b", "c", "d")]
    assert seeds == [0, 1]
