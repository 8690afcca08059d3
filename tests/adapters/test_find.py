"""Where the transformers model and its head are in somebody's module."""

from __future__ import annotations

import pytest
import torch
from adapters_tiny import Module, bert, distilbert, encoder, gpt2
from torch import nn

from contpeft.adapters import AdaptedModel
from contpeft.adapters.find import find_head, find_model, set_path
from contpeft.errors import NotFoundError, SpecError


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.text = encoder()
        self.inner = nn.ModuleDict({"image": encoder(1)})
        self.score = nn.Linear(16, 2)


def test_the_model_is_found_wherever_it_is() -> None:
    module = Module()
    assert find_model(module) == ("model", module.model)
    assert find_model(nn.Sequential(nn.Identity(), module)) == ("1.model", module.model)
    model = bert()
    assert find_model(model) == ("", model)  # not the BertModel inside it
    assert find_model(nn.ModuleDict({"net": model})) == ("net", model)


def test_a_named_path_is_taken() -> None:
    module = Two()
    assert find_model(module, "text") == ("text", module.text)
    assert find_model(module, "inner.image") == ("inner.image", module.inner["image"])
    model = bert()
    assert find_model(model, "bert") == ("bert", model.bert)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_model_is_the_model_it_compiled() -> None:
    module = Module()
    plain = module.model
    module.model = torch.compile(plain)
    assert find_model(module) == ("model", plain)
    assert find_model(module, "model") == ("model", plain)


def test_no_model_several_models_wrong_paths() -> None:
    with pytest.raises(NotFoundError, match=r"^no transformers model inside Linear; build it before the fit"):
        find_model(nn.Linear(2, 2))
    with pytest.raises(
        SpecError, match=r"^Two holds 2 transformers models: text, inner.image; say which one"
    ):
        find_model(Two())
    with pytest.raises(NotFoundError, match=r"^Two has no module 'txt'; did you mean 'text'\?$"):
        find_model(Two(), "txt")
    with pytest.raises(NotFoundError, match=r"^Two has no module 'text.config'"):
        find_model(Two(), "text.config")  # there, and no module
    with pytest.raises(
        SpecError, match=r"^Two.score is a Linear, not a transformers model; there are: inner"
    ):
        find_model(Two(), "score")


def test_the_head_is_found_by_the_names_people_use() -> None:
    model = bert()
    assert find_head(model, model, "") == "classifier"
    assert find_head(nn.ModuleDict({"net": model}), model, "net") == "net.classifier"
    for module, held, head in ((Module(), "model", "head"), (Two(), "text", "score")):
        assert find_head(module, module.get_submodule(held), held) == head
    model = distilbert()
    assert find_head(model, model, "") == "classifier"


def test_a_language_model_has_no_head_to_replace() -> None:
    model = gpt2()
    assert find_head(model, model, "") is None
    adapted = AdaptedModel.of(model)
    assert adapted.head is None
    adapted.reset_head()  # nothing to do
    with pytest.raises(
        SpecError, match=r"GPT2LMHeadModel has no head to replace; name its place with head='...'"
    ):
        adapted.set_head(nn.Linear(16, 2))


def test_a_model_called_head_is_not_its_own_head() -> None:
    module = nn.ModuleDict({"head": encoder()})
    assert find_head(module, module["head"], "head") is None


def test_a_head_is_taken_where_it_is_said_to_be() -> None:
    module = Two()
    assert find_head(module, module.text, "text", "inner") == "inner"
    with pytest.raises(NotFoundError, match=r"^Two has no head 'scroe'; did you mean 'score'\?$"):
        find_head(module, module.text, "text", "scroe")


def test_a_place_needs_a_parent() -> None:
    module = Two()
    set_path(module, "inner.image", layer := nn.Identity())
    assert module.inner["image"] is layer
    with pytest.raises(NotFoundError, match="Two has no module 'outer'"):
        set_path(module, "outer.image", layer)
