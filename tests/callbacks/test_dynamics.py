"""What a method does around every optimizer step, at the moments Lightning has for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import Probe, TinyModule, learn, quiet_trainer, same, task_loader
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from contpeft import AdapterCheckpoint, AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.adapters import AdaptedModel
from contpeft.callbacks.passes import in_two_passes
from contpeft.errors import SpecError, UnsupportedError
from contpeft.strategies import Recipe
from contpeft.strategies.init import FromLast

ADALORA = AdapterSpec("adalora", init_r=4, target_r=2, tinit=1, tfinal=2)


class Scheduled(TinyModule):
    """Without dropout, at a rate that falls; B may have a rate of its own."""

    def __init__(self, ratio: float = 1.0) -> None:
        super().__init__(dropout=0.0)
        self.ratio = ratio

    def configure_optimizers(self) -> Any:
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for name, p in named if "lora_B" not in name]},
            {"params": [p for name, p in named if "lora_B" in name], "lr": self.rate * self.ratio},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.rate, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trained(
    store: AdapterStore, task: str, spec: AdapterSpec, module: L.LightningModule, **options: Any
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    continual = ContinualAdapter(store, task, spec)
    learn(module, continual, **options)
    return dict(store.load(continual.registered[0].ref).tensors)


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.01}])
def test_lora_plus_is_a_group_of_parameters_at_a_higher_rate(
    store: AdapterStore, options: dict[str, Any]
) -> None:
    grouped = trained(store, "groups", AdapterSpec("lora", r=4), Scheduled(ratio=8), epochs=2, **options)
    plus = trained(store, "plus", AdapterSpec("lora+", r=4, ratio=8), Scheduled(), epochs=2, **options)
    plain = trained(store, "plain", AdapterSpec("lora", r=4), Scheduled(), epochs=2, **options)
    assert store.show("plus").kind == "lora"
    for name, tensor in plus.items():
        torch.testing.assert_close(tensor, grouped[name], rtol=0, atol=2e-6)
    assert max(float((plus[name] - plain[name]).abs().max()) for name in plus) > 1e-3


def test_lora_plus_at_1_is_lora(store: AdapterStore) -> None:
    one = trained(store, "one", AdapterSpec("lora+", r=4, ratio=1), TinyModule())
    other = trained(store, "other", AdapterSpec("lora", r=4), TinyModule())
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-7)


# --- ranks ---------------------------------------------------------------------------------------


def test_adalora_prunes_over_the_steps_of_the_fit(store: AdapterStore) -> None:
    module = TinyModule(dropout=0.0)
    tensors = trained(store, "billing", ADALORA, module, epochs=3)
    config = store.show("billing").config
    assert config["total_step"] == 12
    assert sum(len(t) for name, t in tensors.items() if "lora_E" in name) == 4 * 2
    fresh = AdaptedModel.of(TinyModule(dropout=0.0))
    state = store.load("billing")
    fresh.attach_state(state)
    fresh.load_head(state)
    batch = next(iter(task_loader()))
    with torch.no_grad():
        assert torch.equal(fresh.module.eval()(batch), module.eval()(batch))


def test_adalora_sees_each_step_once_with_its_gradients(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contpeft.adapters.attachment import Attachment

    seen: list[tuple[int, float]] = []
    allocate = Attachment.allocate_ranks

    def watch(self: Attachment, step: int) -> None:
        graded = [p.grad for p in self.trainable() if p.grad is not None]
        seen.append((step, float(torch.cat([g.flatten() for g in graded]).norm())))
        allocate(self, step)

    monkeypatch.setattr(Attachment, "allocate_ranks", watch)
    trained(store, "b", ADALORA, TinyModule(), epochs=2, accumulate_grad_batches=2, gradient_clip_val=1e-3)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert all(0 < norm < 1.001e-3 for _, norm in seen)  # as they were clipped


def test_the_regulariser_is_in_the_loss(store: AdapterStore) -> None:
    class Recorded(TinyModule):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            used.append(loss.item())
            super().backward(loss, *args, **kwargs)

    used: list[float] = []
    for weight in (0.0, 0.5):
        spec = AdapterSpec("adalora", **{**ADALORA.options, "orth_reg_weight": weight})
        trained(store, f"w{weight}".replace(".", "-"), spec, Recorded(dropout=0.0), epochs=2)
    assert used[8] - used[0] == pytest.approx(0.5 * 2, rel=0.05)  # |0 - I| of rank 4 is 2


def test_a_resumed_fit_prunes_as_an_unbroken_one(store: AdapterStore, tmp_path: Path) -> None:
    class StopAfter(L.Callback):
        def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 2:
                raise RuntimeError("stop")

    def fit(task: str, *others: L.Callback, resume: Path | None = None) -> None:
        torch.manual_seed(0)
        callbacks = [ContinualAdapter(store, task, ADALORA), AdapterCheckpoint(), *others]
        checkpoints = ModelCheckpoint(tmp_path / task, save_last=True)
        trainer = quiet_trainer(*callbacks, checkpoints, epochs=4, enable_checkpointing=True)
        trainer.fit(TinyModule(dropout=0.0), task_loader(), ckpt_path=resume)

    def look(trainer: Any, module: Any) -> dict[str, Tensor]:
        return dict(AdaptedModel.of(module).attachment.dynamics.state()["exp_avg_ipt"])

    fit("whole")
    with pytest.raises(RuntimeError, match="stop"):
        fit("broken", StopAfter())
    checkpoint = tmp_path / "broken" / "last.ckpt"
    kept = torch.load(checkpoint, weights_only=True)["callbacks"]["ContinualAdapter"]["dynamics"]
    assert set(kept) == {"ipt", "exp_avg_ipt", "exp_avg_unc", "rank_pattern"}
    with pytest.warns(UserWarning, match="exists and is not empty"):
        fit("broken", begun := Probe(look), resume=checkpoint)
    assert len(kept["exp_avg_ipt"]) == 12
    assert same(begun.seen[0], kept["exp_avg_ipt"])
    assert same(dict(store.load("broken").tensors), dict(store.load("whole").tensors))
    assert store.show("broken").config == store.show("whole").config


def test_the_next_task_goes_on_with_the_ranks_of_the_last(store: AdapterStore) -> None:
    for task in ("first", "second"):
        continual = ContinualAdapter(store, task, ADALORA, recipe=Recipe(init=FromLast()), name="line")
        learn(TinyModule(dropout=0.0), continual, epochs=3)
    one, two = (dict(store.load(f"line@{n}").tensors) for n in (1, 2))
    assert {name: t.shape for name, t in one.items()} == {name: t.shape for name, t in two.items()}
    assert not same(one, two)


def test_the_next_task_goes_on_as_the_method_trains(store: AdapterStore) -> None:
    spec = AdapterSpec("lora-fa", r=4)
    for task in ("first", "second"):
        learn(TinyModule(), ContinualAdapter(store, task, spec, recipe=Recipe(init=FromLast()), name="line"))
    one, two = (dict(store.load(f"line@{n}").tensors) for n in (1, 2))
    assert {name for name in one if torch.equal(one[name], two[name])} == {n for n in one if "lora_A" in n}


def test_a_fit_without_an_end_is_refused(store: AdapterStore) -> None:
    with pytest.raises(SpecError, match="this fit has no planned end"):
        learn(TinyModule(), ContinualAdapter(store, "b", ADALORA), epochs=-1, max_time={"minutes": 1})


@pytest.mark.parametrize("spec", [ADALORA, AdapterSpec("lora+"), AdapterSpec("adamix", consistency=1.0)])
def test_manual_optimization_is_refused(store: AdapterStore, spec: AdapterSpec) -> None:
    module = TinyModule()
    module.automatic_optimization = False
    before = {name: id(p) for name, p in module.named_parameters()}
    with pytest.raises(UnsupportedError, match="TinyModule optimizes manually"):
        learn(module, ContinualAdapter(store, "billing", spec))
    assert {name: id(p) for name, p in module.named_parameters()}.keys() == before.keys()


# --- two passes ----------------------------------------------------------------------------------


def test_consistency_is_the_mean_loss_of_two_passes_and_their_distance() -> None:
    torch.manual_seed(0)
    head, features = nn.Linear(4, 3), torch.randn(2, 5, 4)
    labels, given, calls = torch.tensor([0, 1, 2, 0, 1]), iter(features), []

    def training_step(batch: Tensor, batch_idx: int) -> Any:
        calls.append(batch_idx)
        return {"loss": F.cross_entropy(head(next(given)), batch), "call": len(calls)}

    outputs = in_two_passes(training_step, head, 0.5)(labels, 7)
    scores = [head(each).log_softmax(-1).double() for each in features]
    p, q = (each.exp() for each in scores)
    distance = ((p * (scores[0] - scores[1])).sum(-1) + (q * (scores[1] - scores[0])).sum(-1)).mean() / 2
    expected = sum(F.nll_loss(each, labels) for each in scores) / 2 + 0.5 * distance
    torch.testing.assert_close(outputs["loss"].double(), expected, rtol=1e-6, atol=0)
    assert (outputs["call"], calls) == (1, [7, 7])
    assert not head._forward_hooks


def test_adamix_keeps_its_passes_close(store: AdapterStore) -> None:
    runs: list[int] = []

    class Counted(TinyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            runs.append(batch_idx)
            return super().training_step(batch, batch_idx)

    spec = AdapterSpec("adamix", reduction_factor=4, consistency=2.0)
    tensors = trained(store, "close", spec, Counted())
    assert runs == [0, 0, 1, 1, 2, 2, 3, 3]
    assert store.show("close").config["consistency"] == 2.0
    apart = trained(store, "apart", AdapterSpec("adamix", reduction_factor=4), TinyModule())
    assert {n: t.shape for n, t in apart.items()} == {n: t.shape for n, t in tensors.items()}
    assert not same(apart, tensors)


def test_consistency_without_logits_is_refused_by_name(store: AdapterStore) -> None:
    class Headless(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.head = self.head, None  # type: ignore[assignment]

        def forward(self, batch: Any) -> Tensor:
            return self.out(self.model(input_ids=batch["input_ids"]).last_hidden_state.mean(1))

    class Unasked(TinyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            features = self.model(input_ids=batch["input_ids"]).last_hidden_state.mean(1)
            return F.cross_entropy(F.linear(features, self.head.weight, self.head.bias), batch["labels"])

    spec = AdapterSpec("adamix", reduction_factor=4, consistency=1.0)
    with pytest.raises(UnsupportedError, match="the module has no classifier head"):
        learn(Headless(), ContinualAdapter(store, "billing", spec))
    with pytest.raises(UnsupportedError, match=r"in training_step the head \(Linear\) gave none"):
        learn(Unasked(), ContinualAdapter(store, "billing", spec))


def test_recipes_and_methods_add_to_one_loss(store: AdapterStore) -> None:
    class Constant:
        def loss(self, context: Any, batch: Any, outputs: Any) -> Tensor:
            return torch.tensor(3.0)

    used: list[float] = []

    class Recorded(TinyModule):
        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            used.append(loss.item())
            super().backward(loss, *args, **kwargs)

    for recipe in (Recipe(), Recipe(penalty=Constant())):
        torch.manual_seed(0)
        learn(Recorded(dropout=0.0), ContinualAdapter(store, "b", ADALORA, recipe=recipe), epochs=2)
    assert used[8] - used[0] == pytest.approx(3.0, rel=1e-5)
