"""A base in a folder: the class that has the adapter's modules, whole, and no pickle."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from adapters_tiny import bert, gpt2
from safetensors.torch import load_file, save_file
from transformers import BertForSequenceClassification, BertForTokenClassification, BertModel, GPT2LMHeadModel

from contpeft.adapters import AdaptedModel, load_base, module_tree
from contpeft.errors import BaseMismatchError, IntegrityError, NotFoundError

PLAIN, INNER = {"encoder.layer.1.output.dense"}, {"bert.encoder.layer.1.output.dense"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classifier, saved with its head."""
    bert().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize(
    ("modules", "told", "kind"),
    [
        (PLAIN, {}, BertModel),
        (set(), {}, BertModel),
        (INNER, {}, BertForSequenceClassification),  # what its own configuration says
        (INNER, {"task_type": "TOKEN_CLS"}, BertForTokenClassification),
        (
            INNER,
            {"auto_mapping": {"base_model_class": "BertForTokenClassification"}},
            BertForTokenClassification,
        ),
        (PLAIN, {"task_type": "SEQ_CLS"}, BertModel),  # its modules are named otherwise
        (PLAIN, {"task_type": "SEQ_2_SEQ_LM"}, BertModel),  # there is no such BERT
        (PLAIN, {"auto_mapping": {"base_model_class": "pipeline"}}, BertModel),
        (PLAIN, {"auto_mapping": ["BertModel"], "task_type": ["SEQ_CLS"]}, BertModel),
    ],
)
def test_the_class_that_has_the_modules(modules: set[str], told: dict, kind: type, folder: Path) -> None:
    tree = module_tree(folder, modules, told)
    assert type(tree) is kind
    assert {p.device.type for p in tree.parameters()} == {"meta"}
    assert type(load_base(folder, modules, told)) is kind


def test_the_model_is_the_one_that_was_saved(folder: Path) -> None:
    loaded = load_base(folder, INNER)
    assert AdaptedModel.of(loaded).base.fingerprint == AdaptedModel.of(bert()).base.fingerprint
    assert AdaptedModel.of(load_base(folder, PLAIN)).base != AdaptedModel.of(loaded).base


def test_a_language_model(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    assert type(load_base(tmp_path, {"transformer.h.1.mlp.c_fc"})) is GPT2LMHeadModel


def test_no_class_has_the_modules(folder: Path) -> None:
    for load in (module_tree, load_base):
        with pytest.raises(
            BaseMismatchError, match=r"has no module 'layers.7.q_proj', which the adapter changes"
        ):
            load(folder, {"layers.7.q_proj", *PLAIN})


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no model in .* \(it has no config.json\)"):
        module_tree(tmp_path, ())
    (tmp_path / "config.json").write_text('{"model_type": "depth_anything"}')
    with pytest.raises(NotFoundError, match="transformers has no class for a DepthAnythingConfig"):
        module_tree(tmp_path, ())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(NotFoundError, match=r"no model in "):
        module_tree(tmp_path, ())


def test_pickled_weights_are_no_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(NotFoundError, match=r"no model in "):
        load_base(folder, PLAIN)


def test_a_base_must_be_whole(folder: Path) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    headless = {name: t for name, t in tensors.items() if not name.startswith("classifier")}
    save_file(headless, weights, metadata={"format": "pt"})
    assert type(load_base(folder, INNER)) is BertForSequenceClassification  # a head is no part of the base
    save_file({n: t for n, t in headless.items() if "pooler" not in n}, weights, metadata={"format": "pt"})
    with pytest.raises(
        IntegrityError, match=r"lacks 'bert.pooler.dense.bias' as a BertForSequenceClassification"
    ):
        load_base(folder, INNER)
    weights.write_bytes(b"\xff" * 100)
    with pytest.raises(IntegrityError, match="is damaged"):
        load_base(folder, INNER)


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_base(folder, INNER, {"task_type": "TOKEN_CLS"})
    assert tuple(capfd.readouterr()) == ("", "")
