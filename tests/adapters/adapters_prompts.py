"""Models and specs that the tests of prompts and unions share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from adapters_tiny import IDS, WIDTH, bert, distilbert, gpt2
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from contpeft.adapters import AdaptedModel
from contpeft.adapters.methods import make_config
from contpeft.adapters.prompts.attachment import PromptAttachment
from contpeft.spec import AdapterSpec

TOKENS = 4
MASK = torch.ones_like(IDS)
MASK[1, 5:] = 0
PIXELS = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
_SIZES: dict[str, Any] = dict(hidden_size=WIDTH, num_hidden_layers=2, intermediate_size=32, vocab_size=48)
_LOUD = dict(initializer_range=0.5, pad_token_id=0, bos_token_id=None, eos_token_id=None)


def prompt(method: str = "prompt_tuning", **options: Any) -> AdapterSpec:
    return AdapterSpec(method, num_virtual_tokens=TOKENS, **options)


SPECS = {
    "prompt": prompt(),
    "p_tuning": prompt("p_tuning"),
    "p_tuning_lstm": prompt("p_tuning", encoder_reparameterization_type="LSTM", encoder_num_layers=1),
    "prefix": prompt("prefix_tuning"),
    "prefix_projected": prompt("prefix_tuning", prefix_projection=True, encoder_hidden_size=8),
}


def llama_lm() -> LlamaForCausalLM:
    """Returns a causal LM with two heads of keys and values for four of queries."""
    heads = dict(num_attention_heads=4, num_key_value_heads=2)
    return made(lambda: LlamaForCausalLM(LlamaConfig(**_SIZES, **heads, **_LOUD)))


def mistral_lm() -> MistralForCausalLM:
    """Returns a causal LM that sees a window of 6 tokens."""
    heads = dict(num_attention_heads=2, num_key_value_heads=1, sliding_window=6)
    return made(lambda: MistralForCausalLM(MistralConfig(**_SIZES, **heads, **_LOUD)))


def qwen_lm() -> Qwen3ForCausalLM:
    """Returns a causal LM whose heads together are wider than the model."""
    heads = dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16)
    return made(lambda: Qwen3ForCausalLM(Qwen3Config(**_SIZES, **heads, **_LOUD)))


def gpt2_lm() -> GPT2LMHeadModel:
    sizes = dict(n_embd=WIDTH, n_layer=2, n_head=2, vocab_size=48, n_positions=20)
    return made(lambda: GPT2LMHeadModel(GPT2Config(**sizes, **_LOUD)))


def gpt2_classifier() -> GPT2ForSequenceClassification:
    sizes = dict(
        n_embd=WIDTH, n_layer=2, n_head=2, vocab_size=48, n_positions=16, num_labels=3, pad_token_id=0
    )
    return made(lambda: GPT2ForSequenceClassification(GPT2Config(**sizes)))


def roberta() -> RobertaForSequenceClassification:
    config = RobertaConfig(
        **_SIZES, num_attention_heads=2, max_position_embeddings=18, num_labels=3, pad_token_id=1
    )
    return made(lambda: RobertaForSequenceClassification(config))


def electra() -> ElectraForSequenceClassification:
    config = ElectraConfig(**_SIZES, embedding_size=8, num_attention_heads=2, num_labels=3)
    return made(lambda: ElectraForSequenceClassification(config))


def dinov2() -> Dinov2ForImageClassification:
    config = Dinov2Config(
        image_size=8,
        patch_size=4,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_labels=3,
    )
    return made(lambda: Dinov2ForImageClassification(config))


def deit() -> DeiTForImageClassification:
    config = DeiTConfig(
        image_size=8, patch_size=4, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, num_labels=3,
    )  # fmt: skip
    return made(lambda: DeiTForImageClassification(config))


def t5_whole() -> T5ForConditionalGeneration:
    config = T5Config(d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=48)
    return made(lambda: T5ForConditionalGeneration(config))


TEXT: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "roberta": roberta,
    "electra": electra,
    "gpt2": gpt2,
    "llama": llama_lm,
    "mistral": mistral_lm,
    "qwen3": qwen_lm,
    "distilbert": distilbert,
}
CAUSAL = ("gpt2", "llama", "mistral", "qwen3")


def made(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def attached(model: nn.Module, spec: AdapterSpec, seed: int = 7) -> PromptAttachment:
    """Attaches a prompt, or a union, whose parameters are random and large."""
    put = AdaptedModel.of(model).attach(spec)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in put.parameters():
            parameter.normal_(std=0.5)
    return put  # type: ignore[return-value]


def by_peft(model: nn.Module, spec: AdapterSpec, like: PromptAttachment, **options: Any) -> PeftModel:
    """Returns PEFT's own model around ``model`` with the weights of a prompt of ours."""
    config = make_config(spec, model)
    for name, value in options.items():
        setattr(config, name, value)
    theirs = get_peft_model(model, config).eval()
    theirs.prompt_encoder["default"].load_state_dict(like.encoder.state_dict())
    return theirs


def scores(model: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        output = model(*args, **kwargs)
    return getattr(output, "logits", output)
