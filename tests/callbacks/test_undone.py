"""What ends a fit early: exceptions, trainers used twice, callbacks that do not go together."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import pytest
from callbacks_tiny import (
    TinyModule,
    learn,
    quiet_trainer,
    same,
    snapshot,
    task_loader,
)

from contpeft import AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.adapters import AdaptedModel
from contpeft.errors import TrainingError

LORA = AdapterSpec("lora", r=4)


class Interrupt(L.Callback):
    """Raises in the hook of that name."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._interrupt)

    def _interrupt(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("stop")


@pytest.mark.parametrize(
    "hook", ["setup", "on_fit_start", "on_train_start", "on_train_batch_end", "on_train_end", "on_fit_end"]
)
def test_an_exception_leaves_the_module_as_it_was(store: AdapterStore, hook: str) -> None:
    module = TinyModule()
    module.model.embeddings.requires_grad_(False)
    before = snapshot(module)
    with pytest.raises(RuntimeError, match="stop"):
        learn(module, ContinualAdapter(store, "billing", LORA), Interrupt(hook))
    assert same(snapshot(module), before)
    assert not hasattr(module.model, "peft_config")
    learn(module, ContinualAdapter(store, "refunds", LORA))
    assert store.names() == ["billing", "refunds"] if hook in ("on_train_end", "on_fit_end") else ["refunds"]


def test_an_exception_after_the_fit_leaves_the_trained_adapter(store: AdapterStore) -> None:
    module = TinyModule()
    trainer = learn(module, ContinualAdapter(store, "billing", LORA))
    trainer.callbacks.append(Interrupt("on_predict_start"))  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="stop"):
        trainer.predict(module, task_loader())
    assert AdaptedModel.of(module).active


# --- fits that train nothing ---------------------------------------------------------------------


def test_a_second_fit_of_the_same_trainer_is_refused(store: AdapterStore) -> None:
    module = TinyModule()
    continual = ContinualAdapter(store, "billing", LORA)
    trainer = learn(module, continual)
    message = r"task 'billing' took no training step \(max_epochs=1, epoch 1 reached\); make a fresh Trainer"
    with pytest.raises(TrainingError, match=message):
        trainer.fit(module, task_loader())
    assert [version.ref for version in store.versions()] == ["billing@1"]
    assert continual.registered == ()


def test_a_fit_whose_batches_are_all_skipped_is_refused(store: AdapterStore) -> None:
    class Skip(TinyModule):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
            return -1

    with pytest.raises(TrainingError, match="took no training step"):
        learn(Skip(), ContinualAdapter(store, "billing", LORA))
    assert store.versions() == []


def test_one_callback_serves_several_tasks_with_fresh_trainers(store: AdapterStore) -> None:
    module, continual = TinyModule(), ContinualAdapter(store, "billing", LORA)
    learn(module, continual)
    learn(module, continual, data=task_loader(flipped=True))
    assert [version.ref for version in store.versions()] == ["billing@2", "billing@1"]


def test_two_in_one_trainer_are_refused(store: AdapterStore) -> None:
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `ContinualAdapter`"):
        quiet_trainer(ContinualAdapter(store, "billing"), ContinualAdapter(store, "refunds"))
