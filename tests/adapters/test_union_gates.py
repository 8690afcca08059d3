"""Gates of UniPELT against a forward of our own in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapters_prompts import MASK, TOKENS, attached, llama_lm, prompt
from adapters_tiny import IDS, bert, encoder, logits, look, vit
from torch import Tensor
from torch.nn import functional as F

from contpeft.adapters import AdaptedModel
from contpeft.adapters.gates import layer_gates
from contpeft.adapters.union import Union
from contpeft.errors import SpecError, UnsupportedError
from contpeft.spec import AdapterSpec

UNIPELT = AdapterSpec("unipelt", num_virtual_tokens=TOKENS, reduction_factor=4, r=4, alpha=6)
_LORA = "0.base_model.model.encoder.layer.{}.attention.self.{}.lora_{}.weight"
_DOWN_UP = "1.base_model.model.encoder.layer.{}.output.LayerNorm.bottleneck_{}"


class Own:
    """UniPELT on a BERT of two layers and two heads, written out from the paper's formulas."""

    def __init__(self, base: dict[str, Tensor], tensors: dict[str, Tensor], scale: float) -> None:
        self.w = {name: value.double() for name, value in base.items()}
        self.t = {name: value.double() for name, value in tensors.items()}
        self.scale = scale

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        at = torch.arange(ids.shape[1]) + TOKENS
        embedded = self.w["embeddings.word_embeddings.weight"][ids]
        embedded = embedded + self.w["embeddings.position_embeddings.weight"][at]
        h = self._norm(
            embedded + self.w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm"
        )
        for layer in range(2):
            h = self._layer(h, mask, layer)
        return h

    def _layer(self, h: Tensor, mask: Tensor, i: int) -> Tensor:
        here = f"encoder.layer.{i}."
        each = torch.sigmoid(h @ self.t[f"gates.{i}.weight"].T + self.t[f"gates.{i}.bias"])
        seen = mask.double()[..., None]
        g = ((each * seen).sum(1) / seen.sum(1)).unbind(1)
        x = self._norm(self._attention(h, mask, i, g) + h, f"{here}attention.output.LayerNorm")
        f = self._linear(F.gelu(self._linear(x, f"{here}intermediate.dense")), f"{here}output.dense")
        z = self._norm(f + x, f"{here}output.LayerNorm")
        down, up = (_DOWN_UP.format(i, part) for part in ("down", "up"))
        u = F.relu(z @ self.t[f"{down}.weight"].T + self.t[f"{down}.bias"])
        u = u @ self.t[f"{up}.weight"].T + self.t[f"{up}.bias"]
        return self._norm(f + g[1][:, None, None] * u + x, f"{here}output.LayerNorm")

    def _attention(self, h: Tensor, mask: Tensor, i: int, g: tuple[Tensor, ...]) -> Tensor:
        own = f"encoder.layer.{i}.attention."
        query, key, value = (self._linear(h, f"{own}self.{part}") for part in ("query", "key", "value"))
        query, value = (
            out
            + g[0][:, None, None] * self.scale * (h @ self._lora(i, part, "A").T @ self._lora(i, part, "B").T)
            for out, part in ((query, "query"), (value, "value"))
        )
        vectors = self.t["2.prompt_embeddings"].view(TOKENS, 2, 2, 16)  # tokens, layers, key or value, width
        before = [g[2][:, None, None] * vectors[:, i, which] for which in (0, 1)]
        key, value = (torch.cat(pair, 1) for pair in zip(before, (key, value), strict=True))
        unseen = F.pad(mask, (TOKENS, 0), value=1)[:, None, None] == 0
        q, k, v = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in (query, key, value))
        weights = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(unseen, -torch.inf).softmax(-1)
        return self._linear((weights @ v).transpose(1, 2).flatten(2), f"{own}output.dense")

    def _lora(self, i: int, part: str, factor: str) -> Tensor:
        return self.t[_LORA.format(i, part, factor)]

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (16,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-12)


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(IDS)], ids=["padded", "whole"])
def test_gated_parts_compute_what_the_paper_says(mask: Tensor) -> None:
    model = encoder(initializer_range=0.3)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    put = attached(model, UNIPELT)
    own = Own(base, put.tensors(), scale=6 / 4)
    model.double()
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, own(IDS, mask), rtol=0, atol=1e-12)
    for part in ("gates.0.weight", "0.base_model", "1.base_model", "2.prompt"):  # each of them matters
        name = next(each for each in put.tensors() if each.startswith(part))
        changed = Own(base, {**put.tensors(), name: put.tensors()[name] * 2}, scale=6 / 4)
        assert (changed(IDS, mask) - found).abs().max() > 1e-4


def with_gates(model: Any, weight: float, bias: float) -> Union:
    put = attached(model, UNIPELT)
    assert isinstance(put, Union)
    tensors = put.tensors()
    put.load(
        {
            name: torch.full_like(tensor, bias if name.endswith("bias") else weight)
            if name.startswith("gates.")
            else tensor
            for name, tensor in tensors.items()
        }
    )
    return put


def test_open_gates_are_a_union_without_gates() -> None:
    model, plain = bert(), bert()
    put = with_gates(model, 0.0, 100.0)
    config = put.config_json()
    ungated = AdapterSpec.union(
        AdapterSpec("lora", r=4, alpha=6),
        AdapterSpec("pfeiffer", reduction_factor=4),
        prompt("prefix_tuning"),
    )
    other = AdaptedModel.of(plain).attach(ungated)
    other.load({name: t for name, t in put.tensors().items() if not name.startswith("gates.")})
    assert config["gated"] is True
    assert other.config_json()["gated"] is False
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-7)


def test_shut_gates_leave_a_prefix_of_zeros() -> None:
    model, plain = bert(), bert()
    with_gates(model, 0.0, -1000.0)
    prefix = AdaptedModel.of(plain).attach(prompt("prefix_tuning"))
    prefix.load({"prompt_embeddings": torch.zeros(TOKENS, 64)})
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-7)


def test_padding_does_not_move_a_gate() -> None:
    model = encoder(initializer_range=0.3)
    attached(model, UNIPELT)
    with torch.no_grad():
        whole = model(IDS, attention_mask=MASK).last_hidden_state[1, :5]
        alone = model(IDS[1:2, :5]).last_hidden_state[0]
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-5)


def test_a_row_of_padding_has_a_gate_all_the_same() -> None:
    gates = layer_gates(
        torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5), torch.tensor([[1, 1, 0], [0] * 3])
    )
    assert gates.shape == (2, 5)
    assert torch.equal(gates[1], torch.zeros(5))
    with pytest.raises(
        UnsupportedError, match=r"mask of shape \(2, 1, 3, 3\) does not tell gates what is padding"
    ):
        layer_gates(torch.randn(2, 3, 4), torch.randn(5, 4), torch.randn(5), torch.ones(2, 1, 3, 3))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
def test_layers_that_are_computed_again_are_refused() -> None:
    parts = AdapterSpec("lora", r=2), AdapterSpec("pfeiffer", reduction_factor=4)
    model = encoder().train()
    model.gradient_checkpointing_enable()
    attached(model, AdapterSpec.union(*parts, gated=True))
    with pytest.raises(
        UnsupportedError, match="a union with gates does not work with gradient checkpointing"
    ):
        model(IDS)
    model.eval()
    assert model(IDS).last_hidden_state.shape == (3, 8, 16)


def test_layers_without_a_prefix_can_be_gated_in_a_model_of_pictures() -> None:
    model = vit()
    pixels = torch.randn(2, 3, 8, 8)
    start = model(pixels).logits
    spec = AdapterSpec.union(AdapterSpec("lora", r=2), AdapterSpec("houlsby", reduction_factor=4), gated=True)
    attached(model, spec)
    assert (model(pixels).logits - start).abs().max() > 1e-3
    AdaptedModel.of(model).detach()
    assert torch.equal(model(pixels).logits, start)


@pytest.mark.parametrize(
    ("make", "part", "message"),
    [
        (
            llama_lm,
            AdapterSpec("lora"),
            "tokens of LlamaModel see only those before them; leave gated=True out",
        ),
        (bert, AdapterSpec("bitfit"), r"part 0 of the union \(bitfit\) has nothing in the layers"),
        (bert, AdapterSpec("lora", use_dora=True), r"part 0 of the union \(lora\) has nothing"),
        (bert, AdapterSpec("lora", targets=["pooler.dense"]), r"part 0 of the union \(lora\) has nothing"),
        (bert, AdapterSpec("compacter", reduction_factor=4, phm_dim=2), r"\(compacter\) has nothing"),
        (
            bert,
            prompt("prompt_tuning"),
            r"\(prompt_tuning\) has nothing in the layers that a gate could scale",
        ),
    ],
)
def test_what_no_gate_can_scale_is_refused(make: Any, part: AdapterSpec, message: str) -> None:
    model = make()
    looks = look(model)
    other = AdapterSpec("parallel", reduction_factor=4)
    with pytest.raises(UnsupportedError, match=message):
        AdaptedModel.of(model).attach(AdapterSpec.union(part, other, gated=True))
    assert look(model) == looks


def test_gates_of_another_shape_are_not_loaded() -> None:
    model = bert()
    put = attached(model, UNIPELT)
    before = put.tensors()
    with pytest.raises(SpecError, match=r"stored gates do not fit: 1 tensors differ \(first: 0\.bias\)"):
        put.load({**{name: t + 1 for name, t in before.items()}, "gates.0.bias": torch.zeros(7)})
    assert all(torch.equal(tensor, before[name]) for name, tensor in put.tensors().items())


def test_an_error_in_the_forward_leaves_a_model_that_comes_apart() -> None:
    model = bert()
    looks, start = look(model), logits(model)
    put = attached(model, UNIPELT)
    answered = logits(model)
    with pytest.raises(SpecError, match="more than the 16 positions"):
        model(torch.ones(1, 15, dtype=torch.long))
    assert torch.equal(logits(model), answered)
    put.remove()
    AdaptedModel.of(model).detach()
    assert torch.equal(logits(model), start)
    assert look(model) == looks
