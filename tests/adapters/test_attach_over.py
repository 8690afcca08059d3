"""Training an adapter over stored ones: only it learns, and together they answer as they were trained."""

from __future__ import annotations

import pytest
import torch
from adapters_tiny import CLASSES, Module, logits, look, same, step, trained, values, version

from contpeft.adapters import AdaptedModel
from contpeft.errors import BaseMismatchError, SpecError
from contpeft.spec import AdapterSpec, AdapterState, BaseModel, Part, Single, Stack, Sum, Version

Stored = dict[str, tuple[Version, AdapterState]]
LOW: list[Part] = [Single("a@1"), Sum((("a@1", 1.0), ("b@1", 1.0))), Stack((Single("a@1"), Single("h@1")))]


@pytest.fixture(scope="module")
def kept() -> Stored:
    found = {}
    specs = {"a": AdapterSpec("lora", r=4), "b": AdapterSpec("lora", r=2), "h": AdapterSpec("houlsby")}
    for name, spec in specs.items():
        adapted = AdaptedModel.of(Module())
        state = trained(adapted, spec, classes=CLASSES)
        found[f"{name}@1"] = version(state, adapted.base, f"{name}@1"), state
    return found


@pytest.mark.parametrize("below", LOW, ids=str)
@pytest.mark.parametrize("method", ["lora", "pfeiffer", "houlsby"])
def test_only_the_top_learns_and_the_stack_answers(kept: Stored, below: Part, method: str) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    before, held, plain = look(module), values(module), logits(module)
    own_head = {name: tensor.clone() for name, tensor in module.head.state_dict().items()}
    adapted.attach_over(below, kept.__getitem__, AdapterSpec(method))
    with adapted.applied(below, kept.__getitem__):
        module.head.load_state_dict(own_head)
        start = logits(module)
    torch.testing.assert_close(logits(module), start, rtol=1e-5, atol=1e-6)  # a fresh one changes nothing
    trainable = adapted.train_only()
    assert {id(p) for p in trainable} == {id(p) for p in module.parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trainable, lr=0.5)
    adapted.set_base_mode(training=False)
    for _ in range(3):
        step(module, optimizer)
    state, told = adapted.state(CLASSES), logits(module)
    assert (told - start).abs().max() > 1e-3
    for ref in below.refs():
        with adapted.applied(Single(ref), kept.__getitem__):
            answered = logits(module)
        alone = Module()
        with AdaptedModel.of(alone).applied(Single(ref), kept.__getitem__):
            assert torch.equal(logits(alone), answered)  # bit for bit what it was
    assert torch.equal(logits(module), told)
    adapted.detach()
    adapted.reset_head()
    assert same(values(module), held)
    assert torch.equal(logits(module), plain)
    assert {k: v for k, v in look(module).items() if k == "hooks"} == {"hooks": before["hooks"]}
    adapted.verify_base()
    stored = {**kept, "t@1": (version(state, adapted.base, "t@1"), state)}
    fresh = Module()
    with AdaptedModel.of(fresh).applied(Stack((below, Single("t@1"))), stored.__getitem__):
        torch.testing.assert_close(logits(fresh), told, rtol=1e-6, atol=1e-7)


def test_a_refusal_leaves_nothing(kept: Stored) -> None:
    module = Module()
    adapted = AdaptedModel.of(module)
    before, plain = look(module), logits(module)
    far = {"f@1": (version(kept["a@1"][1], BaseModel("far", "f" * 64, 1), "f@1"), kept["a@1"][1])}
    with pytest.raises(BaseMismatchError, match="f@1 was trained on 'far'"):
        adapted.attach_over(Single("f@1"), far.__getitem__, AdapterSpec("lora"))
    with pytest.raises(SpecError, match="no module 'nowhere'"):
        adapted.attach_over(Single("a@1"), kept.__getitem__, AdapterSpec("lora", targets=["nowhere"]))
    assert look(module) == before
    assert torch.equal(logits(module), plain)
    trained(adapted)
