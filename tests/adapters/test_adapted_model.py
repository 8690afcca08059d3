"""A module with an adapter: attach, train only that, take the state, detach."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path

import pytest
import torch
from adapters_tiny import (
    CLASSES,
    Module,
    bert,
    encoder,
    logits,
    look,
    same,
    step,
    trained,
    tree,
    values,
    version,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import BertModel

from contpeft.adapters import AdaptedModel, CosineHead, LinearHead
from contpeft.errors import BaseMismatchError, NotFoundError, SpecError
from contpeft.spec import AdapterSpec, AdapterState, HeadSpec
from contpeft.store import AdapterStore


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = encoder(0), encoder(1)
        self.head, self.other = nn.Linear(16, 2), nn.Linear(16, 3)


class TestOf:
    def test_there_is_one_per_module(self) -> None:
        module = Module()
        adapted = AdaptedModel.of(module)
        assert AdaptedModel.of(module) is adapted
        assert AdaptedModel.of(module, model="model", head="head") is adapted
        assert AdaptedModel.of(Module()) is not adapted
        assert (adapted.module, adapted.model, adapted.head) == (module, module.model, module.head)
        assert (adapted.model_path, adapted.head_path) == ("model", "head")

    def test_a_choice_among_several_is_remembered(self) -> None:
        module = Pair()
        with pytest.raises(SpecError, match="holds 2 transformers models"):
            AdaptedModel.of(module)
        adapted = AdaptedModel.of(module, model="right", head="other")
        assert AdaptedModel.of(module) is adapted
        assert (adapted.model, adapted.head) == (module.right, module.other)
        assert AdaptedModel.of(module, model="left").model is module.left

    def test_a_replaced_model_is_another(self) -> None:
        module = Module()
        before = AdaptedModel.of(module)
        module.model = encoder(5)
        after = AdaptedModel.of(module)
        assert after is not before
        assert after.base.fingerprint != before.base.fingerprint
        del module.model
        with pytest.raises(NotFoundError, match="Module has no module 'model'"):
            AdaptedModel.of(module)

    def test_another_head_may_be_named_later(self) -> None:
        module = Pair()
        adapted = AdaptedModel.of(module, model="left")
        assert adapted.head is module.head
        assert AdaptedModel.of(module, head="other") is adapted
        before = values(module.other)
        with torch.no_grad():
            module.other.weight.zero_()
        adapted.reset_head()
        assert same(values(module.other), before)

    def test_a_copy_of_a_module_is_not_yet_known(self) -> None:
        module = Module()
        adapted = AdaptedModel.of(module)
        other = copy.deepcopy(module)
        found = AdaptedModel.of(other)
        assert found is not adapted
        assert found.module is other
        trained(found)
        assert not adapted.active

    def test_adapters_of_others_are_refused(self) -> None:
        module = Module()
        get_peft_model(module.model, LoraConfig(target_modules=["query"]))
        with pytest.raises(
            SpecError,
            match=r"BertModel holds an adapter that was not attached here, at encoder\.layer\.0\.att",
        ):
            AdaptedModel.of(module)
        adapted = AdaptedModel.of(Module())
        adapted.attach(AdapterSpec("lora"))
        with pytest.raises(SpecError, match="that was not attached here"):
            AdaptedModel.of(copy.deepcopy(adapted.module))


class TestAttach:
    def test_attaching_lora_changes_no_bit(self, minilm: BertModel) -> None:
        torch.manual_seed(3)
        ids = torch.randint(1000, 20_000, (4, 12))
        with torch.no_grad():
            before = minilm(ids).last_hidden_state
            AdaptedModel.of(minilm).attach(AdapterSpec("lora", r=4, targets="all-linear"))
            assert torch.equal(minilm(ids).last_hidden_state, before)

    def test_only_adapter_and_head_are_trained(self) -> None:
        module = Module()
        before = values(module)
        adapted = AdaptedModel.of(module)
        attachment = adapted.attach(AdapterSpec("lora"))
        trainable = adapted.train_only()
        assert {id(p) for p in trainable} == {
            *map(id, attachment.parameters()),
            *map(id, module.head.parameters()),
        }
        assert {id(p) for p in module.parameters() if p.requires_grad} == {*map(id, trainable)}
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)  # as careless as can be
        for _ in range(3):
            step(module, optimizer)
        after = {name.replace(".base_layer", ""): tensor for name, tensor in values(module).items()}
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == {"head.weight", "head.bias"}

    def test_a_second_adapter_is_refused(self) -> None:
        adapted = AdaptedModel.of(Module())
        state = trained(adapted)
        for again in (lambda: adapted.attach(AdapterSpec("ia3")), lambda: adapted.attach_state(state)):
            with pytest.raises(
                SpecError, match=r"^Module has an adapter attached already; detach\(\) it before"
            ):
                again()
        assert adapted.state().kind == "lora"

    def test_a_model_out_of_training_gets_an_adapter_out_of_training(self) -> None:
        for mode in (True, False):
            module = Module().train(mode)
            adapted = AdaptedModel.of(module)
            adapted.attach(AdapterSpec("lora", dropout=0.5))
            assert {each.training for each in module.modules()} == {mode}
        state = trained(adapted)
        fresh = AdaptedModel.of(Module())
        fresh.attach_state(state)
        assert torch.equal(logits(fresh.module), logits(fresh.module))  # no dropout

    def test_the_base_can_rest_while_the_adapter_trains(self) -> None:
        adapted = AdaptedModel.of(Module())
        adapted.set_base_mode(training=True)
        assert adapted.model.training
        attachment = adapted.attach(AdapterSpec("lora", dropout=0.5))
        adapted.set_base_mode(training=False)
        dropouts = {name for name, each in adapted.model.named_modules() if isinstance(each, nn.Dropout)}
        training = {name for name, each in adapted.model.named_modules() if each.training}
        assert dropouts & training == {name for name in dropouts if name.endswith("lora_dropout.current")}
        assert len(dropouts & training) == 4
        attachment.train()  # nothing new
        assert training == {name for name, each in adapted.model.named_modules() if each.training}

    def test_detaching_puts_everything_back(self) -> None:
        module = Module().train()
        module.model.embeddings.requires_grad_(False)
        module.model.eval()
        before, looks, answered = values(module.model), look(module), logits(module)
        adapted = AdaptedModel.of(module)
        adapted.attach(AdapterSpec("lora", targets="all-linear"))
        adapted.train_only()
        assert adapted.active
        adapted.detach()
        assert not adapted.active
        assert look(module) == looks
        assert same(values(module.model), before)
        assert torch.equal(logits(module), answered)
        adapted.detach()  # nothing happens
        assert look(module) == looks
        with pytest.raises(SpecError, match="no adapter is attached to Module"):
            adapted.state()

    def test_the_head_alone_can_be_trained(self) -> None:
        module = Module()
        adapted = AdaptedModel.of(module)
        assert adapted.train_only() == list(module.head.parameters())
        assert not any(p.requires_grad for p in module.model.parameters())
        adapted.detach()
        assert all(p.requires_grad for p in module.parameters())

    def test_an_adapter_made_under_inference_mode_can_be_trained(self) -> None:
        adapted = AdaptedModel.of(Module())
        state = trained(AdaptedModel.of(Module()))
        for attach in (lambda: adapted.attach(AdapterSpec("lora")), lambda: adapted.attach_state(state)):
            with torch.inference_mode():
                attach()
                adapted.reset_head()
            before = adapted.state()
            assert not same(trained(adapted).tensors, before.tensors)
            adapted.detach()


class TestState:
    def test_adapter_and_head_are_copies(self) -> None:
        adapted = AdaptedModel.of(Module())
        state = trained(adapted, classes=CLASSES)
        before = {name: tensor.clone() for name, tensor in state.tensors.items()}
        trained(adapted)
        assert same(before, dict(state.tensors))
        assert state.head == HeadSpec("own", CLASSES, {"module": "Linear"})
        assert same(state.head_tensors(), {"weight": before["head.weight"], "bias": before["head.bias"]})

    def test_a_module_without_a_head_stores_none(self) -> None:
        adapted = AdaptedModel.of(encoder())
        adapted.attach(AdapterSpec("lora"))
        state = adapted.state()
        assert state.head is None
        assert state.head_tensors() == {}
        adapted.load_head(state)  # nothing to do

    def test_a_state_that_does_not_fit_leaves_the_model_as_it_was(self) -> None:
        state = trained(AdaptedModel.of(Module()))
        name = next(iter(state.adapter_tensors()))
        wrong = {
            "shape": {**state.tensors, name: torch.zeros(3, 3)},
            "missing": {key: value for key, value in state.tensors.items() if key != name},
            "foreign": {
                **state.tensors,
                "base_model.model.embeddings.word_embeddings.weight": torch.zeros(48, 16),
            },
        }
        messages = {
            "shape": r"^stored tensor .*lora_A.weight has shape \(3, 3\), the model's place .* \(8, 16\)$",
            "missing": r"^stored adapter does not fit BertModel: 1 tensors missing \(first: .*\), 0 foreign$",
            "foreign": r": 0 tensors missing, 1 foreign \(first: base_model.model.embeddings.word_em",
        }
        module = Module()
        adapted = AdaptedModel.of(module)
        before, looks = values(module), look(module)
        for kind, tensors in wrong.items():
            with pytest.raises(SpecError, match=messages[kind]):
                adapted.attach_state(AdapterState(state.kind, state.config, tensors, state.head))
            assert not adapted.active
            assert look(module) == looks
            assert same(values(module), before)

    def test_loading_into_an_attached_adapter_is_all_or_nothing(self) -> None:
        adapted = AdaptedModel.of(Module())
        state = trained(adapted)
        attachment = adapted.attachment
        assert attachment is not None
        half = {name: torch.zeros_like(tensor) for name, tensor in state.adapter_tensors().items()}
        half.popitem()
        with pytest.raises(SpecError):
            attachment.load(half)
        assert same(attachment.tensors(), state.adapter_tensors())

    def test_it_can_be_taken_while_the_adapter_is_out(self) -> None:
        module = Module()
        adapted = AdaptedModel.of(module)
        state, looks, answered = trained(adapted), look(module), logits(module)
        plain = look(Module())["tree"].keys()
        with adapted.attachment.removed():
            assert tree(module).keys() == plain
            assert same(adapted.attachment.tensors(), state.adapter_tensors())
            assert tree(module).keys() == plain
            adapted.attachment.remove()  # nothing new
        assert look(module) == looks
        assert torch.equal(logits(module), answered)

    def test_class_statistics_are_no_adapter(self) -> None:
        state = AdapterState("statistics", {}, {"head.means": torch.ones(1, 2)}, HeadSpec("statistics"))
        with pytest.raises(SpecError, match=r"^a version of kind 'statistics' holds no adapter to attach$"):
            AdaptedModel.of(Module()).attach_state(state)

    def test_attaching_a_stored_adapter_draws_no_random_numbers(self) -> None:
        state = trained(AdaptedModel.of(Module()))
        adapted = AdaptedModel.of(Module())
        before = torch.get_rng_state()
        adapted.attach_state(state)
        assert torch.equal(torch.get_rng_state(), before)

    def test_names_do_not_tell_what_is_compiled(self) -> None:
        state = trained(AdaptedModel.of(Module()))
        module = Module()
        layers = module.model.encoder.layer
        layers[0] = torch.nn.ModuleDict(
            {"_orig_mod": layers[0]}
        )  # where torch.compile keeps what it compiled
        adapted = AdaptedModel.of(module)
        attachment = adapted.attach_state(state)
        assert same(attachment.tensors(), state.adapter_tensors())

    def test_another_process_answers_bit_for_bit(self, commands: Path, tmp_path: Path) -> None:
        adapted = AdaptedModel.of(Module())
        state = trained(adapted, AdapterSpec("lora", r=2, targets="all-linear"))
        expected = logits(adapted.module)
        AdapterStore(tmp_path / "store").register("colours", state, base=adapted.base)
        code = "import sys; from adapters_tiny import answer_stored; answer_stored(sys.argv[1])"
        command = [commands / "python", "-c", code, str(tmp_path)]
        told = subprocess.check_output(command, cwd=Path(__file__).parent, text=True)
        assert told.strip() == adapted.base.fingerprint
        assert torch.equal(load_file(tmp_path / "logits.safetensors")["logits"], expected)


class TestBase:
    def test_another_base_is_refused(self) -> None:
        adapted = AdaptedModel.of(Module())
        entry = version(trained(adapted), adapted.base)
        adapted.check_base(entry)
        with pytest.raises(BaseMismatchError) as caught:
            AdaptedModel.of(Module(seed=1)).check_base(entry)
        mine, other = adapted.base.fingerprint[:12], AdaptedModel.of(Module(seed=1)).base.fingerprint[:12]
        assert str(caught.value) == (
            f"colours@1 was trained on 'BertModel' ({mine}), this model is 'BertModel' ({other}); "
            "load the base it was trained on"
        )


class TestHeads:
    def test_a_head_is_put_in_place(self) -> None:
        for module in (Module(), bert()):
            adapted = AdaptedModel.of(module)
            before = adapted.base
            head = LinearHead(("a", "b"), torch.ones(2, 16))
            adapted.set_head(head)
            assert adapted.head is head
            assert logits(module).shape == (3, 2)
            assert adapted.base == before

    def test_a_fresh_start_is_the_head_as_first_seen(self) -> None:
        module = Module()
        adapted = AdaptedModel.of(module)
        before = values(module.head)
        trained(adapted)
        assert not same(values(module.head), before)
        adapted.reset_head()
        assert same(values(module.head), before)
        adapted.set_head(CosineHead(("a", "b"), torch.ones(2, 16)))
        adapted.reset_head()
        assert same(values(module.head), before)
        trained(adapted)
        adapted.reset_head()  # the copy put back first is not trained either
        assert same(values(module.head), before)

    def test_a_head_the_user_has_exchanged_is_the_new_start(self) -> None:
        module = Module()
        adapted = AdaptedModel.of(module)
        state = trained(adapted)
        module.head = nn.Linear(16, 5)
        before = values(module.head)
        adapted.reset_head()
        assert same(values(module.head), before)
        with pytest.raises(
            SpecError, match=r"^the stored head \(Linear\) does not fit Module.head; build the mod"
        ):
            adapted.load_head(state)
        assert same(values(module.head), before)

    def test_a_stored_head_of_the_users_comes_back(self) -> None:
        module = Module()
        adapted = AdaptedModel.of(module)
        state = trained(adapted)
        adapted.set_head(CosineHead(("a", "b"), torch.ones(2, 16)))
        adapted.load_head(state)
        assert type(module.head) is nn.Linear
        assert same(values(module.head), state.head_tensors())
        assert all(p.requires_grad for p in module.head.parameters())

    def test_a_stored_head_of_ours_is_rebuilt(self) -> None:
        adapted = AdaptedModel.of(Module())
        adapted.set_head(CosineHead(("a", "b"), torch.randn(2, 16), scale=7.0))
        adapted.attach(AdapterSpec("lora"))
        state = adapted.state(("ignored",))
        assert state.head == HeadSpec("cosine", ("a", "b"), {"scale": 7.0})
        fresh = AdaptedModel.of(Module())
        with torch.inference_mode():
            fresh.load_head(state)
        assert torch.equal(logits(fresh.module), logits(adapted.module))
        assert not fresh.head.weight.is_inference()
