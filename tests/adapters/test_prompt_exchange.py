"""Folders of PEFT with prompts: with a head, of a causal LM, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_prompts import SPECS, TOKENS, attached, llama_lm, scores
from adapters_tiny import IDS, bert, logits
from peft import PeftModel, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file

from contpeft.adapters import AdaptedModel, state_from_peft
from contpeft.errors import SpecError
from contpeft.store import AdapterStore

CONFIGS = {
    "prompt_tuning": PromptTuningConfig,
    "p_tuning": PromptEncoderConfig,
    "prefix_tuning": PrefixTuningConfig,
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.mark.parametrize("method", CONFIGS)
def test_a_prompt_with_a_head_comes_in(method: str, store: AdapterStore, tmp_path: Path) -> None:
    torch.manual_seed(1)
    options = {"encoder_hidden_size": 16} if method == "p_tuning" else {}
    config = CONFIGS[method](task_type="SEQ_CLS", num_virtual_tokens=TOKENS, **options)
    theirs = get_peft_model(bert(), config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    answered = scores(theirs, input_ids=IDS)
    version = store.exchange.import_folder(tmp_path / "theirs", "theirs", base=bert())
    assert version.head is not None
    assert (version.kind, dict(version.head.options)) == (method, {"module": "classifier"})
    model = bert()
    adapted = AdaptedModel.of(model)
    state = store.load("theirs")
    adapted.attach_state(state)
    adapted.load_head(state)
    torch.testing.assert_close(logits(model), answered, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")
@pytest.mark.parametrize("name", SPECS)
def test_an_exported_prompt_generates_in_peft(name: str, store: AdapterStore, tmp_path: Path) -> None:
    model = llama_lm()
    put = attached(model, SPECS[name])
    adapted = AdaptedModel.of(model)
    store.register("lm", adapted.state(), base=adapted.base)
    store.exchange.export_folder("lm", tmp_path / "out")
    theirs = PeftModel.from_pretrained(llama_lm(), tmp_path / "out").eval()
    hidden = 0 if name.startswith("prefix") else TOKENS
    assert torch.equal(scores(theirs, input_ids=IDS)[:, hidden:], scores(model, IDS))
    ids, options = IDS[:, :5] + 1, {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    seen = torch.ones_like(ids)
    ours = model.generate(ids, attention_mask=seen, **options)
    assert torch.equal(theirs.generate(input_ids=ids, attention_mask=seen, **options), ours)
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (told["task_type"], told["num_virtual_tokens"]) == ("CAUSAL_LM", TOKENS)
    assert load_file(tmp_path / "out" / "adapter_model.safetensors").keys() == put.tensors().keys()


@pytest.mark.parametrize(
    ("told", "tensors", "message"),
    [
        (
            {},
            {"prompt_embeddings": torch.zeros(3, 16)},
            r"shape \(3, 16\), adapter_config.json gives it \(4, 16\)",
        ),
        ({}, {"more": torch.zeros(1)}, "no tensor 'prompt_embeddings' among the 1 tensors"),
        ({"num_layers": None}, {}, "gives num_layers None, which is no size"),
        (
            {},
            {"prompt_embeddings": torch.zeros(4, 16), "base_model.bert.pooler.dense.bias": torch.zeros(16)},
            "neither a factor of the adapter nor of a head it declares",
        ),
    ],
)
def test_what_does_not_belong_together_stays_out(
    told: dict[str, Any], tensors: dict[str, torch.Tensor], message: str
) -> None:
    sizes = {"num_virtual_tokens": 4, "token_dim": 16, "num_layers": 2, "num_attention_heads": 2}
    with pytest.raises(SpecError, match=message):
        state_from_peft({"peft_type": "PROMPT_TUNING", **sizes, **told}, tensors)


def test_a_prompt_of_another_model_is_refused() -> None:
    model = llama_lm()
    attached(model, SPECS["prefix"])
    state = AdaptedModel.of(model).state()
    with pytest.raises(
        SpecError, match=r"token_dim is 8, BertForSequenceClassification has 16; leave it out, or"
    ):
        AdaptedModel.of(bert()).attach_state(state)
