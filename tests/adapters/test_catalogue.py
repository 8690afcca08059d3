"""What is told of each method is what attaching it would be."""

from __future__ import annotations

import pytest
import torch
from adapters_tiny import bert, encoder, look, same, values, vit
from transformers import MPNetConfig, MPNetModel

from contpeft.adapters import method_names
from contpeft.adapters.catalogue import MethodRow, catalogue, reference_model
from contpeft.adapters.cost import flops_per_token
from contpeft.adapters.methods_page import methods_page
from contpeft.adapters.notes import NOTES
from contpeft.adapters.tuners import OWN_METHODS, REGISTERED
from contpeft.merging import RULES
from contpeft.spec.methods import ADDED_METHODS

pytestmark = [
    pytest.mark.usefixtures("no_compiler"),
    pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old"),
]


@pytest.fixture(scope="module")
def rows() -> dict[str, MethodRow]:
    """Every method in a classifier of two layers of width 16."""
    return {row.method: row for row in catalogue(bert())}


def test_the_methods_added_to_peft_are_known_without_it() -> None:
    assert set(OWN_METHODS) == ADDED_METHODS


def test_every_method_is_listed_and_told_of(rows: dict[str, MethodRow]) -> None:
    assert list(rows) == method_names()
    assert set(rows) <= set(NOTES)
    assert all(row.changes for row in rows.values())


def test_numbers_are_those_of_the_method(rows: dict[str, MethodRow]) -> None:
    base = sum(p.numel() for name, p in bert().named_parameters() if not name.startswith("classifier."))
    lora = 2 * 2 * (8 * 16 + 16 * 8)  # layers, query and value, factors of rank 8
    one = (16 + 1) + (16 + 16)  # down and up of width 1, with biases
    assert (rows["lora"].trainable, rows["lora"].stored) == (lora, lora)
    assert rows["lora"].share == lora / base
    assert (rows["pissa"].trainable, rows["pissa"].stored) == (lora, 2 * lora)  # a frozen half beside it
    assert (rows["lora-fa"].trainable, rows["lora-fa"].stored) == (lora // 2, lora)
    assert (rows["pfeiffer"].trainable, rows["houlsby"].trainable) == (2 * one, 4 * one)
    assert (rows["adamix"].trainable, rows["adamix"].stored) == (2 * 4 * one, 2 * one)
    biases = sum(p.numel() for name, p in bert().named_parameters() if name.endswith("bias"))
    assert rows["bitfit"].trainable == biases - 3  # the head's are trained anyway
    assert rows["vera"].stored is not None
    assert rows["vera"].trainable is not None
    assert rows["vera"].stored > rows["vera"].trainable  # random factors that are kept


def test_bytes_are_those_of_the_numbers_stored(rows: dict[str, MethodRow]) -> None:
    assert {name: rows[name].bytes for name in ("lora", "adamix")} == {
        "lora": 4 * (rows["lora"].stored or 0),
        "adamix": 4 * (rows["adamix"].stored or 0),
    }
    assert rows["c3a"].bytes is None


def test_operations_are_those_of_the_matrices_that_are_added(rows: dict[str, MethodRow]) -> None:
    """Two operations an entry of each factor; one token of 8 goes through each once."""
    assert rows["lora"].flops == 2 * (2 * 2 * (8 * 16 + 16 * 8))
    assert rows["pfeiffer"].flops == 2 * 2 * (16 + 16)
    assert (rows["ia3"].flops, rows["bitfit"].flops, rows["c3a"].flops) == (0, 0, None)
    assert rows["prompt_tuning"].flops is None  # 20 virtual tokens do not fit into 16 positions


def test_operations_of_a_model_are_those_of_its_layers() -> None:
    layer = 4 * 16 * 16 + 2 * 16 * 32
    # Attention has no weights: each of 8 tokens, half of the positions, meets the others twice.
    attention = 2 * 8 * 16
    for how in ("eager", "sdpa"):
        model = encoder()
        model.set_attn_implementation(how)
        assert flops_per_token(model) == 2 * 2 * (layer + attention)
    assert flops_per_token(vit()) is None


def test_a_network_that_makes_a_prompt_is_trained_and_not_stored(rows: dict[str, MethodRow]) -> None:
    vectors = 20 * 16
    network = 3 * (16 * 16 + 16)
    assert (rows["p_tuning"].trainable, rows["p_tuning"].stored) == (vectors + network, vectors)
    assert (rows["prefix_tuning"].trainable, rows["prefix_tuning"].stored) == (4 * vectors, 4 * vectors)
    gates = 2 * (3 * 16 + 3)
    parts = sum(rows[name].trainable for name in ("lora", "pfeiffer"))
    assert rows["unipelt"].trainable == parts + 10 * 16 * 4 + gates


def test_a_method_that_cannot_be_attached_says_why(rows: dict[str, MethodRow]) -> None:
    refused = rows["c3a"]
    assert (refused.trainable, refused.share, refused.stored) == (None, None, None)
    assert refused.refused is not None
    assert "block size should be a factor" in refused.refused
    assert rows["lora"].refused is None


def test_who_merges_and_who_reads(rows: dict[str, MethodRow]) -> None:
    assert rows["lora"].merge == tuple(RULES)
    names = ("dora", "lora", "lora+", "ia3", "pfeiffer", "vera", "p_tuning_v2", "mam", "unipelt")
    told = {name: (rows[name].merged_by, rows[name].read_by) for name in names}
    assert told == {
        "dora": (None, "PEFT"),
        "lora": ("all rules", "PEFT, engines"),
        "lora+": ("all rules", "PEFT, engines"),
        "ia3": ("entry by entry", "PEFT"),
        "pfeiffer": ("average", "PEFT + contpeft"),
        "vera": (None, "PEFT"),
        "p_tuning_v2": (None, "PEFT"),
        "mam": (None, "PEFT + contpeft"),
        "unipelt": (None, "contpeft"),
    }


def test_the_model_and_the_random_numbers_stay_as_they_are() -> None:
    model = bert()
    before, looks = values(model), look(model)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    catalogue(model)
    assert torch.equal(torch.rand(2), expected)
    assert same(values(model), before)
    assert look(model) == looks


def test_a_family_without_places_is_listed_all_the_same() -> None:
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    told = {row.method: row for row in catalogue(MPNetModel(MPNetConfig(vocab_size=48, **sizes)))}
    assert "no known place in the layers of a mpnet model" in str(told["pfeiffer"].refused)
    assert told["bitfit"].refused is None


def test_the_reference_has_the_size_of_minilm() -> None:
    assert round(sum(p.numel() for p in reference_model().parameters()) / 1e6, 1) == 22.7


def test_a_line_of_the_page(rows: dict[str, MethodRow]) -> None:
    page = methods_page([rows["lora"], rows["c3a"], rows["trainable_tokens"]])
    assert (
        f"| `lora` | adds a low-rank product to W | 1,024 | {rows['lora'].share:.3%} | 1,024 | "
        "4,096 | 2,048 | all rules | stack, sum, fuse, rows, drop | PEFT, engines | "
        "[Hu et al. 2022](https://arxiv.org/abs/2106.09685) |\n"
    ) in page
    assert (
        "| `c3a` | adds a block-circular convolution to W | - | - | - | - | - | no | stack, drop | PEFT |"
        in page
    )
    assert page.endswith("`c3a` with `block_size=64`, `trainable_tokens` with `token_indices=[0]`.\n")
