"""Checkpoints: small, named, refused when they are of something else, and good to resume from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import Probe, TinyModule, parameters, quiet_trainer, same, snapshot, task_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from contpeft import AdapterCheckpoint, AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.adapters import AdaptedModel
from contpeft.errors import IntegrityError, StoreBusyError, UnsupportedError

LORA = AdapterSpec("lora", r=4)

# A resumed fit writes where the one before did.
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")


class StopAfter(L.Callback):
    """Fails after an epoch, once its checkpoint is written."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self._epoch:
            raise RuntimeError("stop")


def fit(
    folder: Path,
    continual: ContinualAdapter,
    *others: L.Callback,
    module: TinyModule | None = None,
    resume: Path | None = None,
    epochs: int = 4,
    **options: Any,
) -> L.Trainer:
    """Fits with adapter checkpoints in ``folder``; ``last.ckpt`` is the newest."""
    checkpoints = ModelCheckpoint(folder, save_last=True)
    callbacks = continual, AdapterCheckpoint(), *others, checkpoints
    trainer = quiet_trainer(*callbacks, epochs=epochs, enable_checkpointing=True, **options)
    trainer.fit(module or TinyModule(), task_loader(), ckpt_path=resume)
    return trainer


def read(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


@pytest.fixture
def stopped(store: AdapterStore, tmp_path: Path) -> Path:
    """Returns the checkpoint of a fit of ``billing`` that broke off after two of four epochs."""
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, ContinualAdapter(store, "billing", LORA), StopAfter(2))
    assert store.versions() == []
    return tmp_path / "last.ckpt"


# --- what is in one ------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_adapter_and_the_head_only(stopped: Path) -> None:
    names = set(read(stopped)["state_dict"])
    places = [f"model.encoder.layer.{k}.attention.self.{t}" for k in (0, 1) for t in ("query", "value")]
    expected = {f"{place}.lora_{side}.current.weight" for place in places for side in "AB"}
    assert names == expected | {"head.weight", "head.bias"}


def test_a_checkpoint_is_made_of_primitives(stopped: Path) -> None:
    checkpoint = read(stopped)  # with weights_only=True: no pickled objects
    state = checkpoint["callbacks"]["ContinualAdapter"]
    assert (state["task"], state["steps"]) == ("billing", 8)
    assert 0 < state["seconds"] < 60
    assert set(checkpoint["contpeft"]) == {"task", "base", "adapter"}
    assert checkpoint["contpeft"]["task"] == "billing"
    assert checkpoint["contpeft"]["base"] == AdaptedModel.of(TinyModule()).base.fingerprint


def compiled() -> TinyModule:
    torch._dynamo.reset()
    module = TinyModule()
    module.model = torch.compile(module.model, backend="eager")
    return module


@pytest.mark.parametrize("first", [TinyModule, compiled])
@pytest.mark.parametrize("second", [TinyModule, compiled])
def test_compiled_and_plain_models_resume_from_each_other(
    store: AdapterStore, tmp_path: Path, first: Callable[[], TinyModule], second: Callable[[], TinyModule]
) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, ContinualAdapter(store, "billing", LORA), StopAfter(2), module=first())
    state = read(tmp_path / "last.ckpt")["state_dict"]
    assert len(state) == 10
    assert not any("_orig_mod" in name for name in state)

    def look(trainer: L.Trainer, module: Any) -> dict[str, torch.Tensor]:
        named = {name.replace("._orig_mod", ""): p for name, p in parameters(module)}
        return {name: p.detach().clone() for name, p in named.items()}

    probe = Probe(look)
    continual = ContinualAdapter(store, "billing", LORA)
    fit(tmp_path, continual, probe, module=second(), resume=tmp_path / "last.ckpt")
    assert same(probe.seen[0], state)
    torch._dynamo.reset()


class Normed(TinyModule):
    """Its head counts what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.BatchNorm1d(16), self.head)  # type: ignore[assignment]


def test_buffers_of_the_head_come_back(store: AdapterStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, ContinualAdapter(store, "billing", LORA), StopAfter(2), module=Normed())
    seen = Probe(lambda trainer, module: int(module.head[0].num_batches_tracked))
    resume = tmp_path / "last.ckpt"
    fit(tmp_path, ContinualAdapter(store, "billing", LORA), seen, module=Normed(), resume=resume)
    assert seen.seen == list(range(8, 16))


@pytest.mark.parametrize(
    ("spec", "frozen"),
    [
        (AdapterSpec("vera", r=4), "vera_A"),  # random matrices between trained vectors: buffers
        (AdapterSpec("adalora", init_r=4, target_r=2), "ranknum"),  # a parameter that never trains
        (AdapterSpec("lora-fa", r=4), "lora_A"),
        (AdapterSpec("pissa", r=4), "lora_A.current.parametrizations.weight.0.frozen"),
    ],
)
def test_what_an_adapter_holds_frozen_is_kept(
    store: AdapterStore, tmp_path: Path, spec: AdapterSpec, frozen: str
) -> None:
    with pytest.raises(RuntimeError, match="stop"):
        fit(tmp_path, ContinualAdapter(store, "billing", spec), StopAfter(2))
    names = set(read(tmp_path / "last.ckpt")["state_dict"])
    assert any(frozen in name for name in names)
    assert not any("embeddings" in name or "base_layer" in name for name in names)
    fit(tmp_path, ContinualAdapter(store, "billing", spec), resume=tmp_path / "last.ckpt")
    assert [version.ref for version in store.versions()] == ["billing@1"]


def test_a_tied_tensor_is_dropped_under_both_names(store: AdapterStore, tmp_path: Path) -> None:
    module = TinyModule()
    module.decoder = nn.Linear(16, 32, bias=False)
    module.decoder.weight = module.model.embeddings.word_embeddings.weight
    fit(tmp_path, ContinualAdapter(store, "billing", LORA), module=module, epochs=1)
    assert not any("decoder" in name for name in read(tmp_path / "last.ckpt")["state_dict"])


# --- resuming ------------------------------------------------------------------------------------


def test_a_fit_goes_on_where_it_was_stopped(store: AdapterStore, stopped: Path) -> None:
    probe = Probe(lambda trainer, module: (trainer.current_epoch, trainer.global_step))
    continual = ContinualAdapter(store, "billing", LORA)
    trainer = fit(stopped.parent, continual, probe, resume=stopped)
    assert probe.seen == [(epoch, 4 * epoch + k) for epoch in (2, 3) for k in range(4)]
    assert trainer.global_step == 16
    assert continual.state_dict()["steps"] == 16
    assert [version.ref for version in store.versions()] == ["billing@1"]


def test_a_resumed_fit_ends_with_the_weights_of_an_unbroken_one(store: AdapterStore, tmp_path: Path) -> None:
    def seeded(*others: L.Callback, task: str, resume: Path | None = None) -> None:
        torch.manual_seed(0)  # of the adapter; there is no dropout
        continual = ContinualAdapter(store, task, LORA)
        fit(tmp_path / "one", continual, *others, module=TinyModule(dropout=0.0), resume=resume)

    seeded(task="whole")
    (tmp_path / "one" / "last.ckpt").unlink()
    with pytest.raises(RuntimeError, match="stop"):
        seeded(StopAfter(2), task="broken")
    seeded(task="broken", resume=tmp_path / "one" / "last.ckpt")
    assert same(dict(store.load("broken").tensors), dict(store.load("whole").tensors))


def test_a_fit_that_had_finished_but_not_registered_registers_on_resume(
    store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise StoreBusyError("the disk is full")

    monkeypatch.setattr(AdapterStore, "register", full)
    with pytest.raises(StoreBusyError, match="the disk is full"):
        fit(tmp_path, ContinualAdapter(store, "billing", LORA))
    monkeypatch.undo()
    checkpoint = read(tmp_path / "last.ckpt")
    continual = ContinualAdapter(store, "billing", LORA)
    for _again in range(2):  # registering the same weights again is the same version
        fit(tmp_path, continual, resume=tmp_path / "last.ckpt")
        assert [version.ref for version in continual.registered] == ["billing@1"]
    state = store.load("billing").head_tensors()
    assert torch.equal(state["weight"], checkpoint["state_dict"]["head.weight"])
    assert store.show("billing").seconds == pytest.approx(
        checkpoint["callbacks"]["ContinualAdapter"]["seconds"]
    )


def test_testing_the_best_checkpoint_after_a_fit_works(store: AdapterStore, tmp_path: Path) -> None:
    class Tested(TinyModule):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("bias", self.head.bias[0].detach())

    module = Tested()
    trainer = fit(tmp_path, ContinualAdapter(store, "billing", LORA), module=module)
    expected = float(module.head.bias[0].detach())
    with torch.no_grad():
        module.head.bias.zero_()
    (metrics,) = trainer.test(module, task_loader(), ckpt_path=str(tmp_path / "last.ckpt"), verbose=False)
    assert metrics["bias"] == pytest.approx(expected)
    assert module.strict_loading


# --- refused -------------------------------------------------------------------------------------


def resumed(store: AdapterStore, checkpoint: Path, task: str = "billing", **options: Any) -> None:
    """Resumes from a checkpoint with other settings than it was written with."""
    module = options.pop("module", None) or TinyModule()
    spec = options.pop("spec", LORA)
    before = snapshot(module)
    try:
        fit(checkpoint.parent, ContinualAdapter(store, task, spec), module=module, resume=checkpoint)
    finally:
        assert same(snapshot(module), before)  # not one tensor of the wrong checkpoint was loaded
        assert module.strict_loading
        assert "on_load_checkpoint" not in vars(module)
        assert store.versions() == []


def rewritten(path: Path, **changes: Any) -> Path:
    checkpoint = read(path)
    for key, value in changes.items():
        if value is None:
            del checkpoint[key]
        else:
            checkpoint[key] = value
    torch.save(checkpoint, path)
    return path


def test_a_checkpoint_of_another_task_is_refused(store: AdapterStore, stopped: Path) -> None:
    with pytest.raises(IntegrityError, match="the checkpoint's task is 'billing', this fit's is 'refunds'"):
        resumed(store, stopped, task="refunds")


def test_a_checkpoint_of_another_base_is_refused(store: AdapterStore, stopped: Path) -> None:
    module = TinyModule()
    with torch.no_grad():
        module.model.embeddings.word_embeddings.weight.add_(1)
    with pytest.raises(IntegrityError, match=r"the checkpoint's base is '[0-9a-f]{64}'"):
        resumed(store, stopped, module=module)


def test_a_checkpoint_of_another_adapter_is_refused(store: AdapterStore, stopped: Path) -> None:
    with pytest.raises(IntegrityError, match="the checkpoint's adapter is"):
        resumed(store, stopped, spec=AdapterSpec("lora", r=4, alpha=3))


def test_a_checkpoint_without_a_manifest_is_refused(store: AdapterStore, stopped: Path) -> None:
    with pytest.raises(IntegrityError, match="the checkpoint has no adapter manifest"):
        resumed(store, rewritten(stopped, contpeft=None))


def test_a_checkpoint_of_weights_alone_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    trainer = quiet_trainer()
    trainer.fit(TinyModule().train(), task_loader())
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    with pytest.raises(IntegrityError, match="the checkpoint has no adapter manifest"):
        resumed(store, tmp_path / "weights.ckpt")


def test_a_checkpoint_that_lost_a_tensor_is_refused(store: AdapterStore, stopped: Path) -> None:
    state = read(stopped)["state_dict"]
    del state["head.bias"]
    with pytest.raises(IntegrityError, match=r"lacks 1 tensors and has 0 .* \(first: head.bias\)"):
        resumed(store, rewritten(stopped, state_dict=state))


def test_a_checkpoint_with_a_tensor_too_many_is_refused(store: AdapterStore, stopped: Path) -> None:
    state = read(stopped)["state_dict"] | {"head.scale": torch.ones(1)}
    with pytest.raises(IntegrityError, match=r"lacks 0 tensors and has 1 .* \(first: head.scale\)"):
        resumed(store, rewritten(stopped, state_dict=state))


def test_a_full_checkpoint_of_another_task_is_refused_too(store: AdapterStore, tmp_path: Path) -> None:
    def run(task: str, resume: str | None = None) -> None:
        callbacks = ContinualAdapter(store, task, LORA), ModelCheckpoint(tmp_path, save_last=True)
        trainer = quiet_trainer(*callbacks, epochs=2, enable_checkpointing=True)
        trainer.fit(TinyModule(), task_loader(), ckpt_path=resume)

    run("billing")
    with pytest.raises(IntegrityError, match="the checkpoint's task is 'billing', this fit's is 'refunds'"):
        run("refunds", str(tmp_path / "last.ckpt"))
    assert store.names() == ["billing"]


def test_it_needs_a_continual_adapter(store: AdapterStore) -> None:
    for callbacks in ([AdapterCheckpoint()], [AdapterCheckpoint(), ContinualAdapter(store, "billing")]):
        with pytest.raises(UnsupportedError, match="AdapterCheckpoint needs a ContinualAdapter before it"):
            quiet_trainer(*callbacks).fit(TinyModule(), task_loader())


@pytest.mark.parametrize("strict", [True, False])
def test_strictness_is_put_back(store: AdapterStore, tmp_path: Path, strict: bool) -> None:
    module = TinyModule()
    module.strict_loading = strict
    seen = Probe(lambda trainer, module: module.strict_loading)
    fit(tmp_path, ContinualAdapter(store, "billing", LORA), seen, module=module, epochs=1)
    assert set(seen.seen) == {False}
    assert module.strict_loading is strict
