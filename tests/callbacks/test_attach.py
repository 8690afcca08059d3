"""Attaching: in time for the optimizer, to the right tensors, and taken back after an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import (
    Probe,
    TinyModule,
    learn,
    parameters,
    quiet_trainer,
    same,
    task_loader,
    tiny_bert,
)
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, XLAStrategy
from torch import nn

from contpeft import AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.adapters import AdaptedModel
from contpeft.callbacks.guards import refuse_settings
from contpeft.errors import NotFoundError, SpecError, TrainingError, UnsupportedError

LORA = AdapterSpec("lora", r=4)


def optimizer_ids(trainer: L.Trainer) -> set[int]:
    return {id(p) for optimizer in trainer.optimizers for g in optimizer.param_groups for p in g["params"]}


# --- what is trained -----------------------------------------------------------------------------


def test_optimizer_holds_the_adapter_and_the_head_and_nothing_else_trains(store: AdapterStore) -> None:
    def look(trainer: L.Trainer, module: Any) -> Any:
        adapted = AdaptedModel.of(module)
        own = {id(p) for p in (*adapted.attachment.parameters(), *module.head.parameters())}
        return optimizer_ids(trainer) == own == {id(p) for _, p in parameters(module)}, len(own)

    probe = Probe(look)
    learn(TinyModule(), ContinualAdapter(store, "billing", LORA), probe)
    assert probe.seen == [(True, 2 * 2 * 2 + 2)] * 4  # layers x (query, value) x (A, B), weight and bias


def test_attaching_changes_no_output(store: AdapterStore) -> None:
    batch = next(iter(task_loader()))
    module = TinyModule(dropout=0.0)
    plain = module(batch)
    probe = Probe(lambda trainer, module: module(batch).detach())
    learn(module, ContinualAdapter(store, "billing", LORA), probe)
    assert torch.equal(probe.seen[0], plain)
    assert not torch.allclose(probe.seen[1], plain)


def test_base_and_earlier_versions_stay_as_they_are_over_a_sequence(store: AdapterStore) -> None:
    module = TinyModule()
    base = AdaptedModel.of(module).base
    refs = []
    for task in ("billing", "refunds", "orders"):
        continual = ContinualAdapter(store, task, LORA)
        learn(module, continual)
        refs.append(continual.registered[0].ref)
        assert AdaptedModel.of(module).verify_base() == base
    assert refs == ["billing@1", "refunds@1", "orders@1"]
    for ref, version in zip(refs, map(store.show, refs), strict=True):
        assert version.base == base
        state = store.load(ref)  # every byte checked against the digest taken at registration
        assert not all(torch.equal(t, torch.zeros_like(t)) for n, t in state.tensors.items() if "lora_B" in n)


def test_a_base_that_changes_is_refused_at_the_end(store: AdapterStore) -> None:
    def shift(trainer: L.Trainer, module: Any) -> None:
        with torch.no_grad():
            module.model.embeddings.word_embeddings.weight.add_(1e-3)

    with pytest.raises(Exception, match="base model 'BertModel' has changed while adapters were trained"):
        learn(TinyModule(), ContinualAdapter(store, "billing", LORA), Probe(shift))
    assert store.versions() == []


def test_the_head_starts_every_task_as_it_was_first_seen(store: AdapterStore) -> None:
    module = TinyModule()
    first = {name: tensor.clone() for name, tensor in module.head.state_dict().items()}
    for task in ("billing", "refunds"):
        probe = Probe(lambda trainer, module: {n: t.clone() for n, t in module.head.state_dict().items()})
        learn(module, ContinualAdapter(store, task, LORA), probe)
        assert same(probe.seen[0], first)
        assert not same(probe.seen[1], first)


def test_only_fitting_attaches(store: AdapterStore) -> None:
    module = TinyModule()
    quiet_trainer(ContinualAdapter(store, "billing", LORA)).predict(module, task_loader())
    assert not AdaptedModel.of(module).active
    assert len(list(parameters(module))) == len(list(module.parameters()))


def test_module_and_head_can_be_named(store: AdapterStore) -> None:
    class Twins(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = tiny_bert().train()
            self.top = self.head
            del self.head

        def forward(self, batch: Any) -> Any:
            return self.top(self.model(input_ids=batch["input_ids"]).last_hidden_state.mean(1))

    with pytest.raises(SpecError, match="holds 2 transformers models: model, teacher; say which one"):
        learn(Twins(), ContinualAdapter(store, "billing", LORA))
    with pytest.raises(NotFoundError, match="Twins has no head 'topp'; did you mean 'top'"):
        learn(Twins(), ContinualAdapter(store, "billing", LORA, module="model", head="topp"))
    continual = ContinualAdapter(store, "billing", LORA, module="model", head="top")
    learn(Twins(), continual)
    assert set(store.load("billing").head_tensors()) == {"weight", "bias"}


def test_a_module_without_a_model_is_refused_by_name(store: AdapterStore) -> None:
    class Bare(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)

    with pytest.raises(NotFoundError, match="no transformers model inside Bare"):
        learn(Bare(), ContinualAdapter(store, "billing", LORA))


def test_asking_for_the_context_before_a_fit_is_refused(store: AdapterStore) -> None:
    with pytest.raises(TrainingError, match="task 'billing' has not been set up"):
        ContinualAdapter(store, "billing").context  # noqa: B018


def test_a_task_name_that_cannot_name_an_adapter_is_refused_at_once(store: AdapterStore) -> None:
    with pytest.raises(SpecError, match="task name 'my task' is not usable"):
        ContinualAdapter(store, "my task")


# --- optimizers that would train something else --------------------------------------------------


class EarlyOptimizer(TinyModule):
    """Builds its optimizer before any adapter exists."""

    def __init__(self) -> None:
        super().__init__()
        self.optimizer = super().configure_optimizers()

    def configure_optimizers(self) -> Any:
        return self.optimizer


def test_an_optimizer_built_too_early_is_refused(store: AdapterStore) -> None:
    with pytest.raises(TrainingError, match="10 of 10 trainable tensors are in no optimizer") as caught:
        learn(EarlyOptimizer(), ContinualAdapter(store, "billing", LORA))
    assert "model.encoder.layer.0.attention.self.query.lora_A.current.weight" in str(caught.value)
    assert store.versions() == []


def fit_by_cli(module: type[L.LightningModule], store: AdapterStore, *arguments: str, **options: Any) -> None:
    """Runs ``fit`` of a LightningCLI whose flags name the callback."""
    flags = {
        "accelerator": "cpu",
        "max_epochs": "1",
        "logger": "false",
        "enable_checkpointing": "false",
        "enable_progress_bar": "false",
        "enable_model_summary": "false",
        "callbacks": "contpeft.ContinualAdapter",
        "callbacks.store": str(store.path),
        "callbacks.task": "billing",
        "callbacks.spec": '{"method": "lora", "r": 4}',
    }
    args = ["fit", *(f"--trainer.{key}={value}" for key, value in flags.items()), *arguments]
    LightningCLI(module, Data, args=args, save_config_callback=None, seed_everything_default=0, **options)


class Data(L.LightningDataModule):
    def train_dataloader(self) -> Any:
        return task_loader()


@pytest.fixture
def _no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fit.py"])  # LightningCLI warns of others beside those it is given


@pytest.mark.usefixtures("_no_arguments")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's own use
def test_the_automatic_optimizer_of_lightning_cli_is_refused(store: AdapterStore) -> None:
    class NoOptimizer(TinyModule):
        configure_optimizers = L.LightningModule.configure_optimizers

    with pytest.raises(TrainingError, match="10 of 10 trainable tensors are in no optimizer"):
        fit_by_cli(NoOptimizer, store, "--optimizer=torch.optim.Adam", "--optimizer.lr=0.01")
    assert store.versions() == []


@pytest.mark.usefixtures("_no_arguments")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's own use
def test_lightning_cli_makes_the_callback_from_flags(store: AdapterStore) -> None:
    fit_by_cli(TinyModule, store, auto_configure_optimizers=False)
    (version,) = store.versions()
    assert (version.ref, version.config["r"]) == ("billing@1", 4)


@pytest.mark.parametrize(
    ("part", "trains", "message"),
    [
        ("embeddings", True, "5 foreign tensors train, 0 of the adapter do not"),
        ("encoder", False, "0 foreign tensors train, 8 of the adapter do not"),
    ],
)
def test_flags_changed_by_another_callback_are_refused(
    store: AdapterStore, part: str, trains: bool, message: str
) -> None:
    class Meddle(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
            getattr(pl_module.model, part).requires_grad_(trains)

    with pytest.raises(TrainingError, match=message):
        quiet_trainer(Meddle(), ContinualAdapter(store, "billing", LORA)).fit(TinyModule(), task_loader())


def test_a_finetuning_callback_that_freezes_the_adapter_is_refused(store: AdapterStore) -> None:
    class WithBackbone(TinyModule):
        @property
        def backbone(self) -> Any:
            return self.model

    callbacks = ContinualAdapter(store, "billing", LORA), BackboneFinetuning()
    with pytest.raises(TrainingError, match="in no optimizer"):
        quiet_trainer(*callbacks).fit(WithBackbone(), task_loader())


# --- strategies, precision, settings -------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_whose_processes_keep_the_adapter_are_refused(strategy: str) -> None:
    trainer = quiet_trainer(strategy=strategy, devices=2)
    with pytest.raises(UnsupportedError, match=r"DDPStrategy with start_method='(spawn|fork)'"):
        refuse_settings(trainer)


@pytest.mark.parametrize("strategy", [DeepSpeedStrategy, FSDPStrategy, XLAStrategy])
def test_sharding_strategies_are_refused_by_name(
    strategy: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = quiet_trainer()
    other = strategy.__new__(strategy)  # what they shard over is not installed here
    other._start_method = "fork" if strategy is XLAStrategy else "popen"
    monkeypatch.setattr(type(trainer), "strategy", other)
    with pytest.raises(UnsupportedError, match=rf"{strategy.__name__} .*use .*strategy='ddp'"):
        refuse_settings(trainer)


@pytest.mark.parametrize("strategy", ["ddp", DDPStrategy(find_unused_parameters=True), "auto"])
def test_one_device_and_launched_ddp_are_accepted(strategy: Any) -> None:
    refuse_settings(quiet_trainer(strategy=strategy, devices=1))


def test_refused_settings_leave_the_module_alone(store: AdapterStore, tmp_path: Path) -> None:
    module = TinyModule()
    continual = ContinualAdapter(store, "billing", LORA)
    learn(module, continual)
    checkpoints = ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(UnsupportedError, match=r"ModelCheckpoint\(save_weights_only=True\) skips"):
        learn(module, continual, checkpoints, enable_checkpointing=True)
    assert AdaptedModel.of(module).active  # billing still answers
    assert list(tmp_path.glob("*.ckpt")) == []


def test_a_precision_that_converts_the_base_is_refused_before_training(store: AdapterStore) -> None:
    probe = Probe(lambda trainer, module: None)
    with pytest.raises(TrainingError, match=r"turned the base from torch\.float32 into torch\.bfloat16"):
        learn(TinyModule(), ContinualAdapter(store, "billing", LORA), probe, precision="bf16-true")
    assert probe.seen == []


def test_mixed_precision_keeps_the_adapter_in_single(store: AdapterStore) -> None:
    def look(trainer: L.Trainer, module: Any) -> set[torch.dtype]:
        return {p.dtype for _, p in parameters(module)}

    probe = Probe(look)
    learn(TinyModule(), ContinualAdapter(store, "billing", LORA), probe, precision="bf16-mixed")
    assert set.union(*probe.seen) == {torch.float32}
    assert {t.dtype for t in store.load("billing").tensors.values()} == {torch.float32}


def test_a_half_precision_base_gets_a_single_precision_adapter(store: AdapterStore) -> None:
    module = TinyModule()
    module.model.to(torch.bfloat16)
    learn(module, ContinualAdapter(store, "billing", LORA), precision="bf16-mixed")
    assert {t.dtype for t in store.load("billing").adapter_tensors().values()} == {torch.float32}


# --- modules that build themselves in configure_model --------------------------------------------


class Late(TinyModule):
    """Builds its model where big models are built."""

    def __init__(self) -> None:
        super().__init__()
        self.model = None

    def configure_model(self) -> None:
        if self.model is None:
            self.model = tiny_bert()


def test_a_module_that_builds_its_model_in_configure_model_trains(store: AdapterStore) -> None:
    module = Late()
    for task in ("billing", "refunds"):
        continual = ContinualAdapter(store, task, LORA)
        learn(module, continual)
        assert continual.registered[0].parameters == 4 * 2 * 4 * 16
        assert "configure_model" not in vars(module)
    early = TinyModule()
    assert AdaptedModel.of(module).base == AdaptedModel.of(early).base


def test_configure_model_is_put_back_after_an_exception(store: AdapterStore) -> None:
    module = Late()
    with pytest.raises(SpecError, match="no adapter method 'lorra'; did you mean 'lora'"):
        learn(module, ContinualAdapter(store, "billing", AdapterSpec("lorra")))
    assert "configure_model" not in vars(module)
    assert not AdaptedModel.of(module).active
