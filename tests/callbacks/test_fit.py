"""What happens inside a fit: penalties, projections, modes of the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from callbacks_tiny import Probe, TinyModule, learn, parameters, quiet_trainer, task_loader
from torch import Tensor, nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from contpeft import AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.errors import NotFoundError, UnsupportedError
from contpeft.strategies import RECIPES, Context, FirstTask, Recipe

LORA = AdapterSpec("lora", r=4)


@dataclass(frozen=True)
class SquaredNorm:
    """A penalty: ``weight`` times the sum of squares of what trains; counts its calls."""

    weight: float
    calls: list[Any]

    def loss(self, context: Context, batch: Any, outputs: Any) -> Tensor:
        self.calls.append(outputs)
        trained = [p for p in context.adapted.module.parameters() if p.requires_grad]
        return self.weight * torch.stack([p.square().sum() for p in trained]).sum()


@dataclass(frozen=True)
class FirstRows:
    """A projection: lets only row 0 of each ``lora_B`` change; keeps what the optimizer had applied."""

    updates: list[dict[str, Tensor]]

    def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
        now = dict(parameters(context.adapted.module))
        assert now.keys() == before.keys()
        self.updates.append({name: (p - before[name]).detach().clone() for name, p in now.items()})
        with torch.no_grad():
            for name, p in now.items():
                if "lora_B" in name:
                    p[1:] = before[name][1:]


def trained(store: AdapterStore, recipe: Recipe, module: TinyModule | None = None, **options: Any) -> Any:
    """Returns the tensors that one fit under ``recipe`` registered."""
    torch.manual_seed(0)  # of the adapter and of dropout
    continual = ContinualAdapter(store, "billing", LORA, recipe=recipe)
    learn(module or TinyModule(), continual, **options)
    return store.load(continual.registered[0].ref).tensors


# --- penalties -----------------------------------------------------------------------------------


def test_a_penalty_of_weight_zero_is_none_bit_for_bit(store: AdapterStore) -> None:
    calls: list[Any] = []
    without = trained(store, Recipe())
    with_zero = trained(store, Recipe(penalty=SquaredNorm(0.0, calls)))
    assert len(calls) == 4
    assert without.keys() == with_zero.keys()
    assert all(torch.equal(without[name], with_zero[name]) for name in without)


class Recorded(TinyModule):
    """Keeps what Lightning was given as loss, divided among accumulated batches as Lightning does it."""

    def __init__(self, form: str = "tensor", **options: Any) -> None:
        super().__init__(**options)
        self.form = form
        self.plain: list[Tensor] = []
        self.used: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.plain.append(loss.detach())
        if self.form == "tensor":
            return loss
        return {"loss": loss, "extra": torch.tensor(7.0)} if self.form == "dict" else None

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.used.append(loss.detach())
        super().backward(loss, *args, **kwargs)


@pytest.mark.parametrize("form", ["tensor", "dict"])
def test_a_penalty_is_added_to_the_loss_once(store: AdapterStore, form: str) -> None:
    calls: list[Any] = []
    norms: list[float] = []

    def look(trainer: L.Trainer, module: Any) -> None:
        norms.append(float(sum(p.detach().square().sum() for _, p in parameters(module))))

    module = Recorded(form)
    recipe = Recipe(penalty=SquaredNorm(0.5, calls))
    learn(module, ContinualAdapter(store, "billing", LORA, recipe=recipe), Probe(look))
    expected = [float(loss) + 0.5 * norm for loss, norm in zip(module.plain, norms, strict=True)]
    assert [float(loss) for loss in module.used] == pytest.approx(expected, rel=1e-5)
    assert [set(out) if isinstance(out, Mapping) else out.ndim for out in calls] == (
        [{"loss", "extra"}] * 4 if form == "dict" else [0] * 4
    )
    assert "training_step" not in vars(module)


def test_a_penalty_is_added_once_in_a_second_fit_too(store: AdapterStore) -> None:
    calls: list[Any] = []
    module = TinyModule()
    continual = ContinualAdapter(store, "billing", LORA, recipe=Recipe(penalty=SquaredNorm(0.5, calls)))
    for fits in (1, 2):
        learn(module, continual)
        assert len(calls) == 4 * fits


def test_a_penalty_is_added_for_each_accumulated_batch(store: AdapterStore) -> None:
    calls: list[Any] = []
    recipe = Recipe(penalty=SquaredNorm(0.5, calls))
    learn(TinyModule(), ContinualAdapter(store, "billing", LORA, recipe=recipe), accumulate_grad_batches=2)
    assert len(calls) == 4


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")
def test_a_batch_without_a_loss_has_no_penalty(store: AdapterStore) -> None:
    calls: list[Any] = []
    recipe = Recipe(penalty=SquaredNorm(0.5, calls))
    learn(Recorded("none"), ContinualAdapter(store, "billing", LORA, recipe=recipe))
    assert calls == []


def test_a_training_step_without_batch_idx_gets_none(store: AdapterStore) -> None:
    class Short(TinyModule):
        def training_step(self, batch: Any) -> Any:  # type: ignore[override]
            return super().training_step(batch, 0)

    calls: list[Any] = []
    recipe = Recipe(penalty=SquaredNorm(0.5, calls))
    learn(Short(), ContinualAdapter(store, "billing", LORA, recipe=recipe))
    assert len(calls) == 4


def test_training_step_is_put_back_after_an_exception(store: AdapterStore) -> None:
    class Broken(TinyModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise RuntimeError("stop")

    module = Broken()
    recipe = Recipe(penalty=SquaredNorm(0.5, []))
    with pytest.raises(RuntimeError, match="stop"):
        learn(module, ContinualAdapter(store, "billing", LORA, recipe=recipe))
    assert "training_step" not in vars(module)


class Manual(TinyModule):
    """Takes its own optimizer steps."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_manual_optimization_trains_but_not_with_penalty_or_projection(store: AdapterStore) -> None:
    for recipe in (Recipe(penalty=SquaredNorm(0.5, [])), Recipe(projection=FirstRows([]))):
        with pytest.raises(UnsupportedError, match="Manual optimizes manually"):
            learn(Manual(), ContinualAdapter(store, "billing", LORA, recipe=recipe))
    learn(Manual(), ContinualAdapter(store, "billing", LORA))
    assert [version.ref for version in store.versions()] == ["billing@1"]


# --- projections ---------------------------------------------------------------------------------


class GradientMask(L.Callback):
    """What a projection of gradients would do: the gradients of all other rows are zero."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        for name, p in parameters(pl_module):
            if "lora_B" in name and p.grad is not None and trainer.global_step > 1:
                p.grad[1:] = 0


def test_the_applied_update_is_projected_not_the_gradient(store: AdapterStore) -> None:
    updates: list[dict[str, Tensor]] = []
    tensors = trained(store, Recipe(projection=FirstRows(updates)), epochs=2)
    moved = {name: t for name, t in tensors.items() if "lora_B" in name}
    assert len(moved) == 4
    for name, tensor in moved.items():  # lora_B starts at zero
        assert float(tensor[1:].abs().max()) == 0.0, name
        assert float(tensor[0].abs().max()) > 1e-3, name
    # The optimizer had moved the other rows at every step: Adam's moments carry on.
    assert all(float(u[name][1:].abs().max()) > 1e-3 for u in updates for name in u if "lora_B" in name)


def test_masking_gradients_alone_does_not_stop_adam(store: AdapterStore) -> None:
    updates: list[dict[str, Tensor]] = []

    @dataclass(frozen=True)
    class Watch(FirstRows):
        def project(self, context: Context, before: Mapping[str, Tensor]) -> None:
            self.updates.append(
                {n: (p - before[n]).detach().clone() for n, p in parameters(context.adapted.module)}
            )

    continual = ContinualAdapter(store, "billing", LORA, recipe=Recipe(projection=Watch(updates)))
    learn(TinyModule(), continual, GradientMask())
    assert all(float(u[name][1:].abs().max()) > 1e-3 for u in updates[2:] for name in u if "lora_B" in name)


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 4), (2, 2), (3, 2)])
def test_a_projection_happens_once_for_each_optimizer_step(
    store: AdapterStore, accumulated: int, steps: int
) -> None:
    updates: list[dict[str, Tensor]] = []
    trained(store, Recipe(projection=FirstRows(updates)), accumulate_grad_batches=accumulated)
    assert len(updates) == steps


def test_a_projection_sees_the_whole_update_of_an_optimizer_that_evaluates_often(store: AdapterStore) -> None:
    class Newton(TinyModule):
        def configure_optimizers(self) -> Any:
            trained = [p for p in self.parameters() if p.requires_grad]
            return torch.optim.LBFGS(trained, lr=0.1, max_iter=3)

    updates: list[dict[str, Tensor]] = []
    starts = Probe(lambda trainer, module: {n: p.detach().clone() for n, p in parameters(module)})
    continual = ContinualAdapter(store, "b", LORA, recipe=Recipe(projection=FirstRows(updates)))
    learn(Newton(dropout=0.0), continual, starts, limit_train_batches=2)
    head = "head.weight"
    assert torch.equal(updates[0][head], starts.seen[1][head] - starts.seen[0][head])


def test_a_projection_forgets_the_step_at_which_a_fit_broke_off(store: AdapterStore) -> None:
    class Breaking(TinyModule):
        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            if self.trainer.global_step == 1:
                raise RuntimeError("stop")  # the update is applied, not yet corrected

    updates: list[dict[str, Tensor]] = []
    continual = ContinualAdapter(store, "billing", LORA, recipe=Recipe(projection=FirstRows(updates)))
    with pytest.raises(RuntimeError, match="stop"):
        learn(Breaking(), continual)
    assert len(updates) == 1
    starts = Probe(lambda trainer, module: module.head.weight.detach().clone())
    learn(TinyModule(), continual, starts)
    assert torch.equal(updates[1]["head.weight"], starts.seen[1] - starts.seen[0])


# --- modes ---------------------------------------------------------------------------------------


class Dropouts(TinyModule):
    """Has dropout in the base, in the adapter, inside the head and beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.1), self.head)  # type: ignore[assignment]


@pytest.mark.parametrize(("mode", "base_on"), [("eval", False), ("train", True)])
@pytest.mark.parametrize("validated", [False, True])
def test_backbone_mode_decides_on_dropout_in_the_base_alone(
    store: AdapterStore, mode: Any, base_on: bool, validated: bool
) -> None:
    def look(trainer: L.Trainer, module: Any) -> tuple[set[bool], set[bool], set[bool]]:
        on: dict[str, set[bool]] = {"base": set(), "adapter": set(), "head": set()}
        for name, child in module.named_modules():
            if isinstance(child, nn.Dropout):
                part = "head" if "head" in name else "adapter" if "lora" in name else "base"
                on[part].add(child.training)
        return on["base"], on["adapter"], on["head"]

    class Validated(Dropouts):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert not self.training

    probe = Probe(look)
    spec = AdapterSpec("lora", r=4, dropout=0.1)
    trainer = quiet_trainer(ContinualAdapter(store, "billing", spec, backbone_mode=mode), probe, epochs=2)
    trainer.fit(Validated() if validated else Dropouts(), task_loader(), task_loader() if validated else None)
    # Warnings are errors here: Lightning saw no module in eval mode when training began.
    assert probe.seen == [({base_on}, {True}, {True})] * 8


def test_a_head_inside_the_model_keeps_its_dropout(store: AdapterStore) -> None:
    class Inside(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            del self.head
            small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 32}
            config = RobertaConfig(**small, intermediate_size=32, max_position_embeddings=16)
            self.model = RobertaForSequenceClassification(config).eval()

        def forward(self, batch: Any) -> Tensor:
            return self.model(input_ids=batch["input_ids"]).logits

    probe = Probe(lambda trainer, m: (m.model.roberta.training, m.model.classifier.dropout.training))
    learn(Inside(), ContinualAdapter(store, "billing", LORA), probe)
    assert probe.seen == [(False, True)] * 4


def test_other_modules_of_the_user_keep_their_mode(store: AdapterStore) -> None:
    module = TinyModule()
    module.teacher = nn.Dropout().eval()
    probe = Probe(lambda trainer, module: module.teacher.training)
    with pytest.warns(UserWarning, match=r"Found 1 module\(s\) in eval mode"):
        learn(module, ContinualAdapter(store, "billing", LORA), probe)
    assert probe.seen == [False] * 4


def test_a_recipe_can_be_named(store: AdapterStore) -> None:
    assert ContinualAdapter(store, "billing", recipe="sequential").recipe is RECIPES["sequential"]
    with pytest.raises(NotFoundError, match="no strategy 'sequentiel'; did you mean 'sequential'"):
        ContinualAdapter(store, "billing", recipe="sequentiel")
    with pytest.raises(UnsupportedError, match="this recipe trains no adapter"):
        ContinualAdapter(store, "billing", recipe="frozen")


def test_a_fit_where_a_recipe_only_gathers_is_refused(store: AdapterStore) -> None:
    recipe = Recipe(init=FirstTask())
    learn(TinyModule(), ContinualAdapter(store, "billing", LORA, recipe=recipe, name="way"))
    later = ContinualAdapter(store, "refunds", LORA, recipe=recipe, name="way")
    with pytest.raises(UnsupportedError, match=r"^this recipe trains nothing at task 'refunds', number 2 of"):
        learn(TinyModule(), later)
