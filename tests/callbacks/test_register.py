"""Registering: what ends up in the store after a fit, and what must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from callbacks_tiny import Probe, TinyModule, learn, parameters, same, task_loader
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel, ViTConfig, ViTForImageClassification

from contpeft import AdapterSpec, AdapterStore, ContinualAdapter, Single, Task
from contpeft.adapters import AdaptedModel
from contpeft.errors import StoreBusyError, TrainingError
from contpeft.strategies import FromLast, Recipe

LORA = AdapterSpec("lora", r=4)


def test_what_was_trained_is_what_is_stored(store: AdapterStore) -> None:
    module = TinyModule()
    continual = ContinualAdapter(store, Task("billing", ("no", "yes")), LORA)
    learn(module, continual)
    (version,) = continual.registered
    assert version == store.show("billing@1")
    assert (version.kind, version.task, version.origin, version.parents) == ("lora", "billing", "trained", ())
    assert version.head is not None
    assert version.head.classes == ("no", "yes")
    assert version.base == AdaptedModel.of(module).base
    assert version.seconds is not None
    assert 0 < version.seconds < 60
    state = store.load("billing")
    live = {name.replace(".current", ""): p for name, p in parameters(module)}
    stored = {f"model.{n.removeprefix('base_model.model.')}": t for n, t in state.adapter_tensors().items()}
    stored |= {f"head.{name}": tensor for name, tensor in state.head_tensors().items()}
    assert same(stored, {name: p.detach() for name, p in live.items()})


def test_a_stored_version_answers_as_the_trained_module_did(store: AdapterStore) -> None:
    batch = next(iter(task_loader()))
    module = TinyModule()
    learn(module, ContinualAdapter(store, "billing", LORA), epochs=4)
    module.eval()
    answer = module(batch)
    other = TinyModule().eval()
    with AdaptedModel.of(other).applied(Single("billing@1"), lambda r: (store.show(r), store.load(r))):
        assert torch.equal(other(batch), answer)
    assert not torch.allclose(other(batch), answer)


def test_a_name_gives_one_line_of_versions(store: AdapterStore) -> None:
    module = TinyModule()
    refs, parents, steps = [], [], []
    for task in ("billing", "refunds"):
        continual = ContinualAdapter(store, task, LORA, name="support", recipe=Recipe(init=FromLast()))
        learn(module, continual)
        refs.append(continual.registered[0].ref)
        parents.append([parent.ref for parent in continual.registered[0].parents])
        steps.append(continual.context.step)
    assert (refs, parents, steps) == (["support@1", "support@2"], [[], ["support@1"]], [0, 1])


def learn_in_turn(module: TinyModule, store: AdapterStore, k: int) -> None:
    """Learns ``task-k``: the task, its opposite, the task, ..."""
    continual = ContinualAdapter(store, f"task-{k}", LORA)
    learn(module, continual, data=task_loader(flipped=k % 2 == 1), epochs=8)


def accuracy(store: AdapterStore, ref: str) -> float:
    """Returns how often a version, in a module of its own, gives the labels that are not flipped."""
    module = TinyModule(dropout=0.0).eval()
    batch = next(iter(task_loader(batch=32)))
    with AdaptedModel.of(module).applied(Single(f"{ref}@1"), lambda r: (store.show(r), store.load(r))):
        return float((module(batch).argmax(-1) == batch["labels"]).float().mean())


def test_ten_tasks_in_a_row_leave_one_module_of_constant_size(store: AdapterStore) -> None:
    module = TinyModule(dropout=0.0, rate=3e-2)
    sizes = set()
    for k in range(10):
        learn_in_turn(module, store, k)
        sizes.add((len(list(module.modules())), len(list(module.parameters())), len(vars(module.model))))
    assert len(sizes) == 1
    assert len(store.names()) == 10
    assert [accuracy(store, f"task-{k}") for k in range(10)] == [1.0, 0.0] * 5


def test_nine_tasks_on_a_compiled_model_share_its_graphs(store: AdapterStore) -> None:
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    module = TinyModule(dropout=0.0, rate=3e-2)
    module.model = torch.compile(module.model, backend=backend)
    batch = next(iter(task_loader(batch=32)))
    seen = []
    for k in range(9):
        learn_in_turn(module, store, k)
        seen.append(len(graphs))
        assert not any("_orig_mod" in name for name in store.load(f"task-{k}").tensors)
        with torch.no_grad():
            compiled = module(batch)
            module.model, wrapped = module.model._orig_mod, module.model
            assert torch.allclose(module(batch), compiled, atol=1e-5)
            module.model = wrapped
    assert [accuracy(store, f"task-{k}") for k in range(9)] == [1.0, 0.0] * 4 + [1.0]
    # Adapters change places in an unchanged structure, so nothing is compiled for later tasks.
    assert seen[0] > 0
    assert set(seen[1:]) == {seen[1]}
    torch._dynamo.reset()


# --- other kinds of model ------------------------------------------------------------------------


class Vision(TinyModule):
    """A ViT with its own classifier inside."""

    def __init__(self) -> None:
        super().__init__()
        del self.head
        small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        config = ViTConfig(**small, image_size=8, patch_size=4, num_channels=1, num_labels=3)
        self.model = ViTForImageClassification(config).eval()

    def forward(self, batch: Any) -> Tensor:
        logits: Tensor = self.model(pixel_values=batch["pixel_values"]).logits
        return logits


def test_a_vision_model_trains_its_inner_head(store: AdapterStore) -> None:
    module = Vision()
    base = AdaptedModel.of(module).base
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = [{"pixel_values": x, "labels": torch.tensor(k % 3)} for k, x in enumerate(images)]
    learn(module, ContinualAdapter(store, "digits", LORA), data=DataLoader(rows, 4))  # type: ignore[arg-type]
    state = store.load("digits")
    assert {name: tuple(t.shape) for name, t in state.head_tensors().items()} == {
        "weight": (3, 16),
        "bias": (3,),
    }
    assert len(state.adapter_tensors()) == 2 * 2 * 2
    assert AdaptedModel.of(module).verify_base() == base


class Language(TinyModule):
    """A causal language model; what it predicts with belongs to the base."""

    def __init__(self) -> None:
        super().__init__()
        del self.head
        self.model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=2, n_head=2))
        self.model.eval()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.model(input_ids=batch["input_ids"]).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())


def test_a_language_model_has_no_head(store: AdapterStore) -> None:
    module = Language()
    probe = Probe(lambda trainer, module: sorted(name for name, _ in parameters(module)))
    learn(module, ContinualAdapter(store, "poems", LORA), probe)
    state = store.load("poems")
    assert (state.head, state.head_tensors()) == (None, {})
    assert all("c_attn.lora_" in name for name in probe.seen[0])
    assert len(probe.seen[0]) == len(state.adapter_tensors()) == 4


# --- what must not be registered -----------------------------------------------------------------


def test_weights_that_are_not_finite_are_refused(store: AdapterStore) -> None:
    def poison(trainer: Any, module: Any) -> None:
        with torch.no_grad():
            module.head.bias[0] = float("nan")

    with pytest.raises(TrainingError, match="NaN") as caught:
        learn(TinyModule(), ContinualAdapter(store, "billing", LORA), Probe(poison))
    assert "\n" not in str(caught.value)
    assert "billing" in str(caught.value)
    assert store.versions() == []
    assert list(store.path.rglob("*.safetensors")) == []


@pytest.mark.parametrize("options", [{"fast_dev_run": True}, {"fast_dev_run": 2}])
def test_a_fast_dev_run_registers_nothing(
    store: AdapterStore, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    continual = ContinualAdapter(store, "billing", LORA)
    learn(TinyModule(), continual, **options)
    assert (store.versions(), continual.registered) == ([], ())
    assert "fast_dev_run trains a few batches: nothing is registered" in caplog.text


def test_an_error_of_the_store_surfaces(store: AdapterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise StoreBusyError("cannot write: the disk is full; free some space and try again")

    monkeypatch.setattr(type(store), "register", full)
    module = TinyModule()
    with pytest.raises(StoreBusyError, match="the disk is full"):
        learn(module, ContinualAdapter(store, "billing", LORA))
    assert not AdaptedModel.of(module).active


def test_a_store_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "adapters").touch()
    with pytest.raises(Exception, match="is a file; name a folder for the adapter store"):
        ContinualAdapter(tmp_path / "adapters", "billing")


def test_a_folder_is_enough_and_is_made_by_the_first_fit(tmp_path: Path) -> None:
    continual = ContinualAdapter(str(tmp_path / "adapters"), "billing", LORA)
    assert list(tmp_path.iterdir()) == []
    learn(TinyModule(), continual)
    assert [version.ref for version in AdapterStore(tmp_path / "adapters").versions()] == ["billing@1"]


def test_other_modules_of_the_user_stay_frozen(store: AdapterStore) -> None:
    module = TinyModule()
    module.extra = nn.Linear(2, 2)
    learn(module, ContinualAdapter(store, "billing", LORA))
    assert not any(p.requires_grad for p in module.extra.parameters())
    AdaptedModel.of(module).detach()
    assert all(p.requires_grad for p in module.parameters())
