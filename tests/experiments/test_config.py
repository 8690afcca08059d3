"""An experiment file: what is accepted, and the one line a mistake gets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from contpeft.errors import ConfigError, ContpeftError, NotFoundError, SpecError
from contpeft.experiments import Experiment, TextClassifier, load_experiment, parse_experiment
from contpeft.experiments.sources import Newsgroups
from contpeft.spec import AdapterSpec

GOOD: dict[str, Any] = {
    "name": "trial",
    "stream": {
        "source": {"class_path": "Newsgroups", "init_args": {"classes": ["sci.med", "sci.space"]}},
        "train_per_class": 4,
        "test_per_class": 4,
    },
    "strategies": ["frozen", "sequential"],
}


def changed(**keys: Any) -> dict[str, Any]:
    return {**GOOD, **keys}


def stream(**keys: Any) -> dict[str, Any]:
    return {**GOOD["stream"], **keys}


def test_short_names_and_defaults_are_filled_in() -> None:
    experiment = parse_experiment(GOOD)
    assert experiment.stream.source == Newsgroups(classes=["sci.med", "sci.space"])
    assert experiment.adapter == AdapterSpec("lora", r=8, alpha=16)
    assert experiment.strategies == ("frozen", "sequential")
    assert experiment.protocols == ("task_aware", "all_classes")
    assert (experiment.seed, experiment.batch_size, experiment.max_epochs) == (0, 32, 3)
    assert [data.classes for data in experiment.stream.build(0)] == [("sci.space", "sci.med")]


def test_a_union_is_a_list_of_parts() -> None:
    parts = [{"method": "lora", "r": 4}, {"method": "prefix_tuning", "num_virtual_tokens": 8}]
    experiment = parse_experiment(changed(adapter={"method": "union", "parts": parts}))
    prefix = AdapterSpec("prefix_tuning", num_virtual_tokens=8)
    assert experiment.adapter.to_json() == {"method": "union", "parts": parts}
    gated = parse_experiment(changed(adapter={"method": "union", "parts": parts, "gated": True})).adapter
    assert gated == AdapterSpec.union(AdapterSpec("lora", r=4), prefix, gated=True)


def test_every_making_gives_a_fresh_module_and_trainer() -> None:
    experiment = parse_experiment(
        changed(
            module={"init_args": {"num_layers": 1, "max_length": 8}},
            trainer={"max_epochs": 1, "callbacks": [{"class_path": "lightning.pytorch.callbacks.Timer"}]},
        )
    )
    (first, one), (second, two) = experiment.make([]), experiment.make([])
    assert isinstance(first, TextClassifier)
    assert first.max_length == 8
    assert first is not second
    timers = [each for each in (one.callbacks[0], two.callbacks[0])]  # type: ignore[attr-defined]
    assert timers[0] is not timers[1]
    assert one.max_epochs == 1


def test_identity_leaves_out_folders_and_what_may_be_added() -> None:
    other = parse_experiment(changed(store="elsewhere", report="r", strategies=["joint"], seed=3))
    assert other.identity() == parse_experiment(GOOD).identity()
    assert parse_experiment(changed(batch_size=8)).identity()["batch_size"] == 8


MISTAKES = [
    (changed(strem=1), ConfigError, "Option 'strem' is not accepted; did you mean 'stream'?"),
    (changed(trainer={"max_epoch": 3}), ConfigError, "option 'max_epoch'; did you mean 'max_epochs'?"),
    (changed(module={"class_path": "TextClasifier"}), ConfigError, "did you mean 'TextClassifier'?"),
    (changed(module={"init_args": {"maxlength": 8}}), ConfigError, "did you mean 'max_length'?"),
    (changed(module={"class_path": "nowhere.Module"}), ConfigError, "No module named 'nowhere'"),
    (changed(module={"class_path": "torch.nn.Linear"}), ConfigError, "not correspond to a subclass"),
    (changed(stream=stream(scenario="class")), ConfigError, "'class-incremental', 'task-incremental'"),
    (changed(stream=stream(clases_per_task=2)), ConfigError, "did you mean 'classes_per_task'?"),
    (changed(stream=stream(source={"class_path": "Newsgroup"})), ConfigError, "did you mean 'Newsgroups'?"),
    (
        changed(stream=stream(source={"class_path": "Newsgroups", "init_args": {"clases": []}})),
        ConfigError,
        "did you mean 'classes'?",
    ),
    (changed(seed="x"), ConfigError, "seed"),
    (changed(name="../up"), SpecError, "run name '../up' is not usable"),
    (changed(strategies=["frozn"]), NotFoundError, "no strategy 'frozn'; did you mean 'frozen'?"),
    (changed(adapter={"method": "lorra"}), SpecError, "no adapter method 'lorra'; did you mean 'lora'?"),
    (changed(adapter={"method": "lora", "alpa": 1}), SpecError, "did you mean 'alpha'?"),
    (changed(adapter={"method": "union", "parts": [{"method": "lora"}]}), SpecError, "two parts or more"),
    (changed(protocols=["task"]), ConfigError, "'task_aware'"),
]


@pytest.mark.parametrize(("document", "error", "said"), MISTAKES, ids=[said for _, _, said in MISTAKES])
def test_a_mistake_gets_one_line_that_names_it(
    document: dict[str, Any], error: type[ContpeftError], said: str
) -> None:
    with pytest.raises(error, match=re.escape(said)) as caught:
        parse_experiment(document, "trial.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["name", "stream", "strategies"])
def test_a_missing_key_is_named(missing: str) -> None:
    document = {key: value for key, value in GOOD.items() if key != missing}
    with pytest.raises(ConfigError, match=missing):
        parse_experiment(document)


def test_unknown_classes_of_the_data_are_named() -> None:
    wrong = {"class_path": "Newsgroups", "init_args": {"classes": ["sci.med", "sci.spac"]}}
    with pytest.raises(ContpeftError, match=r"sci\.spac.*did you mean 'sci\.space'"):
        parse_experiment(changed(stream=stream(source=wrong))).stream.build(0)


class TestFiles:
    def load(self, path: Path, text: str) -> Experiment:
        path.write_text(text)
        return load_experiment(path)

    def test_a_missing_file_is_named_with_its_neighbour(self, tmp_path: Path) -> None:
        (tmp_path / "quickstart.yaml").touch()
        with pytest.raises(NotFoundError, match=r"did you mean '.*quickstart\.yaml'"):
            load_experiment(tmp_path / "quickstat.yaml")

    def test_broken_yaml_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="is no YAML") as caught:
            self.load(tmp_path / "a.yaml", "name: [")
        assert "\n" not in str(caught.value)

    def test_a_list_is_no_experiment(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="holds list"):
            self.load(tmp_path / "a.yaml", "- name")

    def test_overrides_replace_top_level_keys(self, tmp_path: Path) -> None:
        path = tmp_path / "a.yaml"
        path.write_text(Path("experiments/quickstart.yaml").read_text())
        experiment = load_experiment(path, {"seed": 7, "name": "other"})
        assert (experiment.seed, experiment.name) == (7, "other")
        assert len(experiment.stream.build(7)) == 5
