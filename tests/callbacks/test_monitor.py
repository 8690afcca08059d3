"""The monitor: who answers, what is logged and stored, and a module that is left as it was."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import (
    LORA,
    Probe,
    TinyModule,
    ValidatedModule,
    learn,
    opposite,
    parameters,
    quiet_trainer,
    same,
    task_loader,
)
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader
from transformers.modeling_outputs import SequenceClassifierOutput

from contpeft import AdapterStore, ContinualAdapter, ForgettingMonitor, Single
from contpeft.adapters import AdaptedModel
from contpeft.callbacks.batches import batch_digest
from contpeft.errors import NotFoundError, SpecError, UnsupportedError
from contpeft.strategies import composition_key, state_key

AnsweredBy = Literal["own", "current"]


class Logged(L.Callback):
    """Remembers what could be seen under ``callback_metrics`` after every validation."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


# --- who answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("answered_by", "accuracy"), [("own", 1.0), ("current", 0.0)])
def test_the_own_version_keeps_what_the_current_one_has_lost(
    store: AdapterStore, module: ValidatedModule, answered_by: AnsweredBy, accuracy: float
) -> None:
    continual = ContinualAdapter(store, "billing", LORA)
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, answered_by=answered_by)
    opposite(module, continual, monitor)
    (score,) = store.scores()
    assert (score.value, score.n, score.task, score.metric) == (accuracy, 32, "refunds", "accuracy")
    assert (score.run, score.way, score.answer, score.step) == ("monitor", "billing@1", answered_by, 1)
    assert score.protocol == "task_aware"
    answers = "refunds@1" if answered_by == "own" else "billing@1"
    assert score.composition == composition_key(Single(answers), continual.context.adapted.base, store.show)
    assert store.run("monitor").scenario == "task-incremental"


def test_both_can_be_asked_in_one_trainer(
    store: AdapterStore, module: ValidatedModule, tmp_path: Path
) -> None:
    earlier = {"refunds": task_loader()}
    monitors = [ForgettingMonitor(store, earlier, answered_by=each) for each in ("own", "current")]
    logger = CSVLogger(tmp_path)
    opposite(module, ContinualAdapter(store, "billing", LORA), *monitors, logger=logger)
    assert [(score.answer, score.value) for score in store.scores()] == [("own", 1.0), ("current", 0.0)]
    logger.save()
    with Path(logger.log_dir, "metrics.csv").open() as file:
        values = {name: value for row in csv.DictReader(file) for name, value in row.items() if value}
    assert (values["acc/refunds"], values["acc_current/refunds"], values["step"]) == ("1.0", "0.0", "32")


def test_a_reference_asks_for_that_version(store: AdapterStore, module: ValidatedModule) -> None:
    opposite(module, ContinualAdapter(store, "refunds", LORA))  # refunds@2 has learnt the opposite
    earlier = {"refunds@1": task_loader()}
    opposite(module, ContinualAdapter(store, "billing", LORA), ForgettingMonitor(store, earlier), epochs=1)
    latest = {"refunds": task_loader()}
    opposite(module, ContinualAdapter(store, "orders", LORA), ForgettingMonitor(store, latest), epochs=1)
    assert [(score.task, score.value) for score in store.scores()] == [("refunds", 1.0), ("refunds", 0.0)]


# --- each epoch ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("answered_by", "name"), [("own", "acc"), ("current", "acc_current")])
def test_each_epoch_is_logged_but_not_the_sanity_check(
    store: AdapterStore, module: ValidatedModule, answered_by: AnsweredBy, name: str
) -> None:
    logged = Logged()
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, answered_by=answered_by, when="epoch")
    callbacks = ContinualAdapter(store, "billing", LORA), monitor, logged
    trainer = opposite(module, *callbacks, num_sanity_val_steps=2)
    values = [seen.get(f"{name}/refunds") for seen in logged.seen]
    assert len(values) == 9
    assert values[0] is None
    assert values[-1] == {"own": 1.0, "current": 0.0}[answered_by]
    assert all(value is not None for value in values[1:])
    assert set(trainer.callback_metrics) == {"val_acc", f"{name}/refunds"}
    assert len(store.scores()) == 1


def test_names_do_not_depend_on_how_many_tasks_came_before(
    store: AdapterStore, module: ValidatedModule
) -> None:
    seen = []
    for earlier in (["refunds"], ["refunds", "task-1"], ["refunds", "task-1", "task-2"]):
        logged = Logged()
        monitor = ForgettingMonitor(store, {task: task_loader() for task in earlier}, when="epoch")
        opposite(module, ContinualAdapter(store, f"task-{len(earlier)}", LORA), monitor, logged, epochs=1)
        seen.append(set(logged.seen[-1]))
        assert {name for name in seen[-1] if name.startswith("acc/")} == {f"acc/{task}" for task in earlier}
    assert seen[0] < seen[1] < seen[2]


def test_a_model_checkpoint_can_watch_an_earlier_task(
    store: AdapterStore, module: ValidatedModule, tmp_path: Path
) -> None:
    checkpoints = ModelCheckpoint(tmp_path / "c", monitor="acc/refunds", mode="max", filename="{epoch}")
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, when="epoch")
    callbacks = ContinualAdapter(store, "billing", LORA), monitor, checkpoints
    opposite(module, *callbacks, epochs=2, enable_checkpointing=True)
    assert checkpoints.best_model_score == 1.0


# --- the module is left as it was ----------------------------------------------------------------


def look(module: Any) -> Any:
    adapted = AdaptedModel.of(module)
    modes = {name: child.training for name, child in module.named_modules()}
    values = {name: p.detach().clone() for name, p in parameters(module)}
    return adapted.attachment, adapted.head, modes, values, torch.is_grad_enabled()


@pytest.mark.parametrize("answered_by", ["own", "current"])
def test_measuring_leaves_adapter_flags_modes_and_weights(
    store: AdapterStore, module: ValidatedModule, answered_by: AnsweredBy
) -> None:
    class Around(ForgettingMonitor):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            before = look(pl_module)
            super().on_train_end(trainer, pl_module)
            after = look(pl_module)
            assert (before[0] is after[0], before[1] is after[1]) == (True, True)
            assert (before[2], before[4]) == (after[2], after[4])
            assert same(before[3], after[3])
            checked.append(True)

    checked: list[bool] = []
    monitor = Around(store, {"refunds": task_loader()}, answered_by=answered_by)
    opposite(module, ContinualAdapter(store, "billing", LORA), monitor)
    assert checked == [True]


def test_measuring_each_epoch_does_not_change_what_is_learnt(store: AdapterStore) -> None:
    def run(*monitors: L.Callback, task: str) -> dict[str, Tensor]:
        module = ValidatedModule()
        torch.manual_seed(0)
        opposite(module, ContinualAdapter(store, task, LORA), *monitors, epochs=3)
        return dict(store.load(task).tensors)

    learn(TinyModule(), ContinualAdapter(store, "refunds", LORA))
    alone = run(task="alone")
    watched = run(ForgettingMonitor(store, {"refunds": task_loader()}, when="epoch"), task="watched")
    assert same(alone, watched)


def test_an_exception_while_measuring_restores_adapter_and_flags(
    store: AdapterStore, module: ValidatedModule
) -> None:
    class Kept(L.Callback):
        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            own.append(AdaptedModel.of(pl_module).attachment)
            flags.append({name for name, _ in parameters(pl_module)})

    def fail(module: L.LightningModule, batch: Any) -> Tensor:
        own.append(AdaptedModel.of(module).attachment)
        raise RuntimeError("stop")

    own: list[Any] = []
    flags: list[set[str]] = []
    probe = Probe(lambda trainer, m: (AdaptedModel.of(m).attachment, {name for name, _ in parameters(m)}))
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, predict=fail)
    with pytest.raises(RuntimeError, match="stop"):
        opposite(module, Kept(), ContinualAdapter(store, "billing", LORA), monitor, probe, epochs=1)
    trained, names = probe.seen[-1]
    guest, after = own
    assert guest is not trained
    assert (after, flags) == (trained, [names])
    assert store.names() == ["billing", "refunds"]  # what was learnt is stored; what failed came later


@pytest.mark.parametrize("when", ["end", "epoch"])
def test_earlier_tasks_are_asked_in_eval_mode_without_gradients(
    store: AdapterStore, module: ValidatedModule, when: Literal["end", "epoch"]
) -> None:
    def predict(module: L.LightningModule, batch: Any) -> Tensor:
        seen.add((any(child.training for child in module.modules()), torch.is_grad_enabled()))
        scores: Tensor = module(batch)
        return scores

    seen: set[tuple[bool, bool]] = set()
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, predict=predict, when=when)
    opposite(module, ContinualAdapter(store, "billing", LORA), monitor, epochs=1)
    assert seen == {(False, False)}


# --- batches -------------------------------------------------------------------------------------


def pairs() -> DataLoader[Any]:
    """Returns the task in batches of ``[inputs, labels]``."""
    batches = [[{"input_ids": batch["input_ids"]}, batch["labels"]] for batch in task_loader()]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class OnPairs(TinyModule):
    """Takes ``[inputs, labels]`` batches and answers with a transformers output."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[0] | {"labels": batch[1]}, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return SequenceClassifierOutput(logits=self(batch[0]))


def test_batches_may_be_sequences_and_answers_transformers_outputs(store: AdapterStore) -> None:
    module = OnPairs(dropout=0.0, rate=3e-2)
    data = pairs()
    learn(module, ContinualAdapter(store, "refunds", LORA), data=data, epochs=8)
    monitor = ForgettingMonitor(store, {"refunds": data})
    learn(module, ContinualAdapter(store, "billing", LORA), monitor, data=data)
    assert [score.value for score in store.scores()] == [1.0]


def test_predict_and_labels_can_be_given(store: AdapterStore, module: ValidatedModule) -> None:
    def predict(module: L.LightningModule, batch: Any) -> Tensor:
        scores: Tensor = module(batch)
        return -scores

    def labels(batch: Any) -> Tensor:
        flipped: Tensor = 1 - batch["labels"]
        return flipped

    for options, value in (({"predict": predict}, 0.0), ({"predict": predict, "labels": labels}, 1.0)):
        monitor = ForgettingMonitor(store, {"refunds": task_loader()}, run=f"r{value}", **options)
        opposite(module, ContinualAdapter(store, "billing", LORA), monitor, epochs=1)
        assert [score.value for score in store.scores(run=f"r{value}")] == [value]


def test_batches_go_the_way_the_trainer_sends_them(store: AdapterStore, module: ValidatedModule) -> None:
    seen: list[str] = []

    class Hooked(type(module)):  # type: ignore[misc]
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            seen.append("before")
            return batch

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            seen.append("after")
            return batch | {"labels": 1 - batch["labels"]}

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append(str(torch.is_autocast_enabled("cpu")))
            return self(batch)

    module.__class__ = Hooked
    monitor = ForgettingMonitor(store, {"refunds": task_loader()})
    callbacks = ContinualAdapter(store, "billing", LORA), monitor
    opposite(module, *callbacks, epochs=1, limit_val_batches=0, precision="bf16-mixed")
    assert seen[-3:] == ["before", "after", "True"]
    assert [score.value for score in store.scores()] == [0.0]


def test_the_digest_of_the_data_is_of_every_leaf() -> None:
    ids, labels = torch.arange(6).view(2, 3), torch.tensor([0, 1])
    batch = [{"ids": ids, "mask": None}, labels, "a text", 3]
    digest = batch_digest(batch)
    assert batch_digest([{"ids": ids.clone(), "mask": None}, labels.clone(), "a text", 3]) == digest
    others = [
        [{"ids": ids + 1, "mask": None}, labels, "a text", 3],
        [{"ids": ids, "mask": None}, 1 - labels, "a text", 3],
        [{"ids": ids, "mask": None}, labels, "another", 3],
        [{"ids": ids, "mask": None}, labels, "a text", 4],
        [{"id": ids, "mask": None}, labels, "a text", 3],
    ]
    assert len({digest, *map(batch_digest, others)}) == 6
    with pytest.raises(UnsupportedError, match=r"holds a PosixPath at '0\.path', which has no digest"):
        batch_digest([{"path": Path("/")}])


def test_the_stored_digest_is_of_the_rows(store: AdapterStore, module: ValidatedModule) -> None:
    for run, rows in (("a", 32), ("b", 32), ("c", 30)):
        monitor = ForgettingMonitor(store, {"refunds": task_loader(rows=rows)}, run=run)
        opposite(module, ContinualAdapter(store, "billing", LORA), monitor, epochs=1)
    one, two, three = (store.scores(run=run)[0] for run in "abc")
    assert one.data == two.data != three.data
    assert three.n == 30


# --- refused -------------------------------------------------------------------------------------


def test_a_missing_earlier_version_is_named_before_training(store: AdapterStore, module: TinyModule) -> None:
    probe = Probe(lambda trainer, module: None)
    monitor = ForgettingMonitor(store, {"refund": task_loader()})
    with pytest.raises(NotFoundError, match=r"no adapter 'refund' in .*; did you mean 'refunds'"):
        opposite(module, ContinualAdapter(store, "billing", LORA), monitor, probe)
    assert probe.seen == []


def test_the_order_of_callbacks_is_checked(store: AdapterStore, module: TinyModule) -> None:
    monitor = ForgettingMonitor(store, {"refunds": task_loader()})
    for callbacks in ([monitor], [monitor, ContinualAdapter(store, "billing", LORA)]):
        with pytest.raises(UnsupportedError, match="ForgettingMonitor needs a ContinualAdapter before it"):
            opposite(module, *callbacks)


@pytest.mark.parametrize("earlier", [["refunds", "refunds@1"], ["sha256:0123456789"]])
def test_tasks_without_a_name_of_their_own_are_refused(store: AdapterStore, earlier: list[str]) -> None:
    with pytest.raises(SpecError, match="are not told apart by name"):
        ForgettingMonitor(store, {task: [] for task in earlier})


# --- nothing to store, nothing to train ----------------------------------------------------------


def test_a_fast_dev_run_stores_no_score(store: AdapterStore, module: TinyModule) -> None:
    monitor = ForgettingMonitor(store, {"refunds": task_loader()})
    opposite(module, ContinualAdapter(store, "billing", LORA), monitor, fast_dev_run=True)
    assert (store.scores(), store.runs()) == ([], [])


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_a_finished_fit_that_is_resumed_is_measured(
    store: AdapterStore, module: ValidatedModule, tmp_path: Path
) -> None:
    def callbacks(*others: L.Callback) -> list[L.Callback]:
        checkpoints = ModelCheckpoint(tmp_path / "c", save_last=True)
        return [ContinualAdapter(store, "billing", LORA), *others, checkpoints]

    opposite(module, *callbacks(), enable_checkpointing=True)
    monitor = ForgettingMonitor(store, {"refunds": task_loader()}, answered_by="current")
    trainer = quiet_trainer(*callbacks(monitor), epochs=8, enable_checkpointing=True)
    data = task_loader(flipped=True)
    trainer.fit(module, data, data, ckpt_path=str(tmp_path / "c" / "last.ckpt"))
    assert [(score.way, score.value) for score in store.scores()] == [("billing@1", 0.0)]


def test_the_current_adapter_has_the_key_it_will_have_as_a_version(
    store: AdapterStore, module: ValidatedModule
) -> None:
    adapted = AdaptedModel.of(module)
    assert state_key(adapted.state(), adapted.base) == composition_key(
        Single("refunds@1"), adapted.base, store.show
    )
