"""Versions trained here, written as AdapterHub's library would: what it says of them, and what it cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters_hub import ADAPTERS, BASE, FUSED, Reading, base, files, loader, taken
from peft import LoraConfig
from transformers import BertForSequenceClassification

from contpeft.adapters import AdaptedModel, AnySpec, CosineHead
from contpeft.adapters.fusion import FusionOptions
from contpeft.adapters.mlp_head import MLPHead
from contpeft.adapters.tuners import REGISTERED
from contpeft.errors import BaseMismatchError, ContpeftError, UnsupportedError, UsageError
from contpeft.spec import AdapterSpec, Version
from contpeft.store import AdapterStore

pytestmark = pytest.mark.skipif(not REGISTERED, reason="this release of PEFT is too old")
SMALL = {"reduction_factor": 2}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


def learnt(store: AdapterStore, name: str, spec: AnySpec, head: Any = None) -> Version:
    """Registers an adapter, random all over."""
    adapted = AdaptedModel.of(base() if head is None else Reading("first token"))
    if head is not None:
        adapted.set_head(head)
    torch.manual_seed(len(store.names()))
    for parameter in adapted.attach(spec).parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return store.register(name, adapted.state(), base=adapted.base)


def fused(store: AdapterStore, name: str, refs: list[str], **options: Any) -> Version:
    adapted = AdaptedModel.of(base())
    load = loader(store)
    torch.manual_seed(1)
    made = adapted.attach_fusion([load(ref) for ref in refs], FusionOptions(**options))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return store.register(name, adapted.state(), base=adapted.base)


def mlp() -> MLPHead:
    given = {"weight": torch.randn(2, 4), "bias": torch.randn(2)}
    return MLPHead(("no", "yes"), given, layers=1, activation=None, dropout=0.1, reads="first token")


def told(folder: Path, name: str = "adapter_config.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name).read_text())
    return found


def refused(
    store: AdapterStore, folder: Path, ref: str, error: type[ContpeftError], match: str, **given: Any
) -> None:
    with pytest.raises(error, match=match) as caught:
        store.exchange.export_folder(ref, folder, profile="adapterhub", **{"base": BASE, **given})
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("method", "options", "differs"),
    [
        ("pfeiffer", {}, {"init_weights": "mam_adapter"}),
        ("pfeiffer", {"scaling": 2, "activation": "gelu"}, {"scaling": 2.0, "non_linearity": "gelu"}),
        ("houlsby", {"init_weights": "bert"}, {"leave_out": []}),
        ("houlsby", {"after_attention": False}, {"mh_adapter": False, "leave_out": []}),
        ("parallel", {"scaling": "learned"}, {}),
        ("parallel", {"scaling": 4}, {"scaling": 4.0}),
    ],
)
def test_a_bottleneck_adapter_says_what_the_library_would(
    method: str, options: dict[str, Any], differs: dict[str, Any], store: AdapterStore, tmp_path: Path
) -> None:
    version = learnt(store, "mine", AdapterSpec(method, **SMALL, **options))
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub", base=BASE)
    written, library = told(tmp_path / "out"), told(ADAPTERS[method])
    began = written["config"].pop("init_weights"), library["config"].pop("init_weights")
    assert began[0] == ("bert" if options.get("init_weights") == "bert" else "mam_adapter")
    differs = {key: value for key, value in differs.items() if key != "init_weights"}
    assert written["config"] == {**library["config"], **differs}
    assert written == {
        **library,
        "config": written["config"],
        "name": "mine",
        "model_name": version.base.name,
    }
    again = store.exchange.import_folder(tmp_path / "out", "again")
    assert (again.fingerprint, again.kind, again.base) == (version.fingerprint, method, version.base)
    same = {key: value for key, value in version.config.items() if key != "init_weights"}
    assert {key: value for key, value in again.config.items() if key != "init_weights"} == same


def test_lora_says_what_the_library_would(store: AdapterStore, tmp_path: Path) -> None:
    version = learnt(store, "mine", AdapterSpec("lora", r=2, alpha=4, targets=["query", "value"]))
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub", base=base())
    library = told(ADAPTERS["lora"])["config"]
    assert told(tmp_path / "out")["config"] == {**library, "intermediate_lora": False, "output_lora": False}
    again = store.exchange.import_folder(tmp_path / "out", "again")
    assert (again.fingerprint, again.config) == (version.fingerprint, version.config)


def test_layers_that_lora_leaves_out_are_told(store: AdapterStore, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["key"], layers_to_transform=[0])
    version = learnt(store, "mine", config)
    refused(store, tmp_path / "out", "mine", UsageError, "of what kind the base is, .*--base", base=None)
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub", base=BASE)
    written = told(tmp_path / "out")["config"]
    assert (written["leave_out"], written["attn_matrices"]) == ([1], ["k"])
    assert store.exchange.import_folder(tmp_path / "out", "again").fingerprint == version.fingerprint


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        (AdapterSpec("bitfit"), "method 'bitfit' has no folder of AdapterHub's"),
        (AdapterSpec("adamix", **SMALL), "method 'adamix' has no folder"),
        (AdapterSpec("pfeiffer", dropout=0.1, **SMALL), "dropout=0.1 of what an adapter reads is not in"),
        (AdapterSpec("houlsby", residual=False, **SMALL), "residual=False is not in AdapterHub"),
        (AdapterSpec("lora", r=2, use_rslora=True), "use_rslora=True is not in AdapterHub's LoRA"),
        (AdapterSpec("lora", r=2, use_dora=True), "AdapterHub has no place for .*lora_magnitude_vector"),
        (
            AdapterSpec("lora", r=2, targets=["attention.output.dense"]),
            "no place for .*attention.output.dense",
        ),
        (
            LoraConfig(r=2, target_modules=["query", "key"], rank_pattern={"key": 1}),
            "differ in rank or alpha",
        ),
        (
            LoraConfig(r=2, target_modules=["query", "key"], alpha_pattern={"key": 1}),
            "differ in rank or alpha",
        ),
        (LoraConfig(r=2, target_modules=r".*(0.*query|1.*key)"), "layer 1 has other modules than the first"),
    ],
)
def test_what_adapterhub_has_no_place_for(
    spec: AnySpec, match: str, store: AdapterStore, tmp_path: Path
) -> None:
    learnt(store, "mine", spec)
    refused(store, tmp_path / "out", "mine", UnsupportedError, match)


def test_the_number_of_layers_is_needed_where_some_may_be_left_out(
    store: AdapterStore, tmp_path: Path
) -> None:
    with torch.random.fork_rng():
        adapted = AdaptedModel.of(BertForSequenceClassification(base().config))
    adapted.attach(LoraConfig(r=2, target_modules=r".*layer\.0.*query"))
    store.register("mine", adapted.state(), base=adapted.base)
    refused(
        store, tmp_path / "out", "mine", UsageError, "may leave out layers, .*--base", base=None, head=False
    )


def test_the_base_must_be_one_the_adapter_fits(store: AdapterStore, tmp_path: Path) -> None:
    learnt(store, "mine", AdapterSpec("lora", r=2))
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt/config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    refused(store, tmp_path / "out", "mine", BaseMismatchError, "has no module", base=tmp_path / "gpt")


def test_heads_of_ours_stay_behind_only_when_told(store: AdapterStore, tmp_path: Path) -> None:
    cosine = CosineHead(("a", "b"), torch.randn(2, 4))
    learnt(store, "mine", AdapterSpec("pfeiffer", **SMALL), cosine)
    refused(
        store, tmp_path / "out", "mine", UnsupportedError, "a head of kind 'cosine' is not in .*--no-head"
    )
    store.exchange.export_folder("mine", tmp_path / "out", profile="adapterhub", base=BASE, head=False)
    assert [name for name in taken(tmp_path / "out") if "head" in name] == []
    with pytest.raises(UsageError, match="only 'adapterhub' leaves it out"):
        store.exchange.export_folder("mine", tmp_path / "other", head=False)


def test_a_dotted_name_is_written_without_dots(store: AdapterStore, tmp_path: Path) -> None:
    version = learnt(store, "demo.ewc", AdapterSpec("pfeiffer", **SMALL), mlp())
    made = store.exchange.export_folder(
        "demo.ewc", tmp_path / "out", profile="adapterhub", base=BASE, base_name="org/bert"
    )
    assert (made.profile, made.files[:2]) == ("adapterhub", ("adapter.safetensors", "adapter_config.json"))
    assert (told(tmp_path / "out")["name"], told(tmp_path / "out")["model_name"]) == ("demo_ewc", "org/bert")
    assert told(tmp_path / "out", "head_config.json")["name"] == "demo_ewc"
    again = store.exchange.import_folder(tmp_path / "out", "demo.ewc")
    assert (again.fingerprint, again.head) == (version.fingerprint, version.head)


def test_a_name_that_torch_has_taken_is_refused(store: AdapterStore, tmp_path: Path) -> None:
    learnt(store, "half", AdapterSpec("pfeiffer", **SMALL))
    refused(store, tmp_path / "out", "half", ContpeftError, "named 'half', as torch's modules")


def test_a_fusion_goes_out_with_its_members(store: AdapterStore, tmp_path: Path) -> None:
    for name, factor in (("a", 2), ("b", 4)):
        learnt(store, name, AdapterSpec("houlsby", reduction_factor=factor), mlp())
    version = fused(store, "both", ["a", "b"], key=False, regularization=False, dropout_prob=0.25)
    store.exchange.export_folder("both", tmp_path / "out", profile="adapterhub", base=BASE)
    written = told(tmp_path / "out" / "a,b", "adapter_fusion_config.json")
    library = told(FUSED, "adapter_fusion_config.json")
    options = {"key": False, "regularization": False, "dropout_prob": 0.25}
    assert written["config"] == {**library["config"], **options}
    assert (written["name"], written["adapter_names"]) == ("a,b", ["a", "b"])
    again = store.exchange.import_folder(tmp_path / "out", "again")
    assert again.config["options"] == version.config["options"]
    one, two = (store.load(ref).tensors for ref in ("both", "again"))
    assert one.keys() == two.keys()
    for name in one:  # W, not W - I, is what goes out
        torch.testing.assert_close(one[name].double(), two[name].double(), rtol=0, atol=1e-7)


def test_versions_of_one_adapter_are_fused_under_numbered_names(store: AdapterStore, tmp_path: Path) -> None:
    for _ in range(2):
        learnt(store, "a", AdapterSpec("pfeiffer", **SMALL))
        learnt(store, f"x{len(store.names())}", AdapterSpec("pfeiffer", **SMALL))
    fused(store, "both", ["a@1", "a@2"])
    store.exchange.export_folder("both", tmp_path / "out", profile="adapterhub", base=BASE)
    assert told(tmp_path / "out" / "a_1,a_2", "adapter_fusion_config.json")["adapter_names"] == ["a_1", "a_2"]
    assert {name.partition("/")[0] for name in files(tmp_path / "out")} == {
        "a_1", "a_1,a_2", "a_2", "adapter_setup.json", "contpeft",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "options", "match"),
    [
        (AdapterSpec("lora", r=2), {}, "fuses bottleneck adapters of one method; these are lora"),
        (AdapterSpec("parallel", **SMALL), {}, "adds the input twice"),
        (
            AdapterSpec("pfeiffer", **SMALL),
            {"temperature": True},
            "option temperature of the fusion",
        ),
    ],
)
def test_fusions_that_adapterhub_has_not(
    spec: AnySpec, options: dict[str, Any], match: str, store: AdapterStore, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        learnt(store, name, spec)
    fused(store, "both", ["a", "b"], **options)
    refused(store, tmp_path / "out", "both", UnsupportedError, match)
