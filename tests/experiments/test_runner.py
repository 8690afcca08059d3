"""A whole sequence: what it registers, what it measures, and how it is taken up again."""

from __future__ import annotations

import json
import signal
import subprocess
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sequence_files import EXPERIMENT, outcome, run_command, run_to_end, write_experiment

from contpeft.errors import ConfigError, UnsupportedError
from contpeft.experiments import Experiment, Progress, parse_experiment, run_experiment
from contpeft.experiments.report import collect
from contpeft.spec import TASK_HITS, Route, Single
from contpeft.store import AdapterStore


@pytest.fixture(scope="module")
def store(finished: tuple[Path, str]) -> AdapterStore:
    return AdapterStore(finished[0] / "adapters", create=False)


def small(folder: Path, **keys: Any) -> dict[str, Any]:
    """Returns the small experiment with one task of two layers' width, changed by ``keys``."""
    document = yaml.safe_load(EXPERIMENT)
    document |= {"store": str(folder / "adapters"), "report": str(folder / "reports")}
    return document | keys


def rows_file(folder: Path, texts: dict[tuple[str, str], str]) -> dict[str, Any]:
    """Writes a folder of labelled texts, six train and three test rows per (task, label)."""
    for split, count in (("train", 6), ("test", 3)):
        rows = [
            {"text": f"{text} number {split} {k}", "label": label, "task": task}
            for (task, label), text in texts.items()
            for k in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"class_path": "LocalFolder", "init_args": {"path": str(folder), "task": "task"}}


class TestWhatIsRegistered:
    def test_one_line_for_what_goes_on_and_one_name_a_task_for_what_is_isolated(
        self, store: AdapterStore
    ) -> None:
        assert set(store.names()) == {
            *("mini.frozen.class-means", "mini.frozen.lda", "mini.sequential", "mini.isolated.lda"),
            *("mini.isolated.task-1", "mini.isolated.task-2", "mini.isolated.task-3", "mini.joint.joint"),
        }
        last = store.show("mini.sequential")
        assert last.ref == "mini.sequential@3"
        assert [(parent.ref, parent.role) for parent in last.parents] == [("mini.sequential@2", "continued")]
        assert last.head is not None
        assert last.head.classes == tuple(label for task in store.run("mini").tasks for label in task.classes)

    def test_every_version_is_of_the_same_unchanged_base(self, store: AdapterStore) -> None:
        assert len({version.base.fingerprint for version in store.versions()}) == 1
        assert store.show("mini.sequential").base.name == "minilm"

    def test_with_one_task_sequential_and_isolated_are_the_same(self, store: AdapterStore) -> None:
        one, other = store.show("mini.sequential@1"), store.show("mini.isolated.task-1@1")
        assert one.fingerprint == other.fingerprint

    def test_answers_name_versions(self, store: AdapterStore) -> None:
        steps = store.steps("mini", "isolated")
        choices = tuple(Single(f"mini.isolated.task-{k}@1") for k in (1, 2, 3))
        assert steps[-1].answers == {"main": Route("mini.isolated.lda@3", choices)}
        assert list(store.steps("mini", "frozen")[0].answers) == ["class-means", "lda"]
        assert [step.step for step in store.steps("mini", "joint")] == [2]


class TestWhatIsMeasured:
    def test_isolated_adapters_forget_exactly_nothing_when_the_task_is_known(
        self, store: AdapterStore
    ) -> None:
        isolated = next(way for way in collect(store, "mini").ways if way.way == "isolated")
        scored = isolated.protocols["task_aware"]
        assert scored.summary.bwt == 0.0
        assert scored.summary.forgetting == 0.0
        below = {(i, task) for i in range(3) for task in scored.matrix.tasks[:i]}
        assert below <= scored.copied

    def test_knowing_the_task_never_hurts(self, store: AdapterStore) -> None:
        cells: dict[tuple[Any, ...], dict[str, float]] = {}
        for s in store.scores(run="mini"):
            if s.kind == "end":
                which = TASK_HITS if s.metric == TASK_HITS else s.protocol
                cells.setdefault((s.way, s.answer, s.step, s.task), {})[which] = s.value
        assert len(cells) == 2 * 6 + 6 + 6 + 3
        assert all(cell["task_aware"] >= cell["all_classes"] for cell in cells.values())
        # A right label is one of the right task; after one task there is no other to take it for.
        assert all(1 >= cell[TASK_HITS] >= cell["all_classes"] for cell in cells.values())
        first = {cell[TASK_HITS] for (_, _, step, _), cell in cells.items() if step == 0}
        assert first == {1.0}
        assert any(cell[TASK_HITS] < 1 for cell in cells.values())

    def test_a_fresh_adapter_transfers_nothing_before_it_is_trained(self, store: AdapterStore) -> None:
        starts = [s for s in store.scores(run="mini", way="isolated") if s.kind == "start"]
        assert {(s.task, s.step) for s in starts} == {
            *(("task-2", 0), ("task-2", -1), ("task-3", 1), ("task-3", -1))
        }
        for task in ("task-2", "task-3"):
            assert len({s.value for s in starts if s.task == task}) == 1
        ways = {way.way: way.protocols["task_aware"].summary for way in collect(store, "mini").ways}
        assert ways["isolated"].fwt == 0.0
        assert ways["sequential"].fwt is not None
        assert ways["joint"].fwt is None

    def test_the_untrained_head_is_the_class_mean_bound(self, store: AdapterStore) -> None:
        bound = {
            s.task: s.value
            for s in store.scores(run="mini", way="frozen")
            if s.answer == "class-means" and s.protocol == "task_aware" and s.step == 2
        }
        starts = [s for s in store.scores(run="mini", way="sequential") if s.kind == "start" and s.step == -1]
        assert {s.task: s.value for s in starts} == {task: bound[task] for task in ("task-2", "task-3")}

    def test_the_command_prints_every_matrix_the_comparison_and_where_to_go_on(
        self, finished: tuple[Path, str]
    ) -> None:
        folder, printed = finished
        for way in ("frozen: class-means", "frozen: lda", "sequential", "isolated", "joint"):
            assert f"\n{way}, task known: accuracy in %" in printed
            assert f"\n{way}, all classes: accuracy in %" in printed
        assert f"store   {folder / 'adapters'}" in printed
        assert f"contpeft store log mini.joint.joint --store {folder / 'adapters'}" in printed
        assert (folder / "reports" / "mini" / "report.html").exists()
        assert list((folder / "reports" / "mini").glob("*.png"))


class TestTakenUpAgain:
    def test_other_settings_under_the_same_name_are_refused(
        self, finished: tuple[Path, str], store: AdapterStore
    ) -> None:
        before = outcome(finished[0] / "adapters", "mini")
        with pytest.raises(ConfigError, match="batch_size was 8, is now 16"):
            run_experiment(parse_experiment(small(finished[0], batch_size=16)))
        with pytest.raises(ConfigError, match="seed was 0, is now 1"):
            run_experiment(parse_experiment(small(finished[0], seed=1)))
        assert outcome(finished[0] / "adapters", "mini") == before
        assert store.run("mini").status == "finished"

    def test_a_second_call_trains_nothing_and_reports_the_same(
        self, finished: tuple[Path, str], commands: Path
    ) -> None:
        folder, printed = finished
        store, summary = folder / "adapters", folder / "reports" / "mini" / "summary.json"
        before, told = outcome(store, "mini"), summary.read_bytes()
        assert run_to_end(commands, folder / "mini.yaml") == printed
        assert outcome(store, "mini") == before
        assert summary.read_bytes() == told

    def test_a_strategy_can_be_added_later(self, tmp_path: Path) -> None:
        run_experiment(parse_experiment(small(tmp_path, strategies=["frozen"])))
        told: list[Progress] = []
        run_experiment(parse_experiment(small(tmp_path, strategies=["frozen", "joint-linear"])), told.append)
        assert [at.phase for at in told if at.way == "frozen" and at.phase != "finished"] == ["kept"] * 3
        assert [s.way for s in AdapterStore(tmp_path / "adapters").steps("mini")] == ["frozen"] * 3 + [
            "joint-linear"
        ]

    def test_base_models_do_not_pile_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[weakref.ref[Any]] = []
        make = Experiment.make

        def recorded(experiment: Experiment, callbacks: list[Any]) -> Any:
            module, trainer = make(experiment, callbacks)
            made.append(weakref.ref(module))
            return module, trainer

        def watch(at: Progress) -> None:
            if at.phase == "finished":
                assert [module() for module in made] == [None] * (at.step + 1)

        monkeypatch.setattr(Experiment, "make", recorded)
        run_experiment(parse_experiment(small(tmp_path, strategies=["isolated"])), watch)
        assert len(made) == 3

    def test_changed_data_are_refused(self, tmp_path: Path) -> None:
        labels = {
            ("a", "cat"): "it purrs",
            ("a", "dog"): "it barks",
            ("b", "car"): "it drives",
            ("b", "bus"): "stops",
        }
        source = rows_file(tmp_path, labels)
        stream = {"source": source, "by": "task", "scenario": "task-incremental"}
        document = small(tmp_path, stream=stream, strategies=["frozen"])
        run_experiment(parse_experiment(document))
        rows_file(tmp_path, labels | {("a", "cat"): "it meows"})
        with pytest.raises(ConfigError, match="data was"):
            run_experiment(parse_experiment(document))

    def test_ctrl_c_interrupts_and_the_next_call_goes_on(self, commands: Path, tmp_path: Path) -> None:
        experiment = write_experiment(tmp_path)
        process = subprocess.Popen(
            run_command(commands, experiment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        said = any(line.startswith("sequential: task-2 (2 of 3), training") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert said
        assert process.returncode == 130
        assert AdapterStore(tmp_path / "adapters").run("mini").status == "interrupted"
        steps = [(step.way, step.step) for step in AdapterStore(tmp_path / "adapters").steps("mini")]
        assert steps == [("frozen", 0), ("frozen", 1), ("frozen", 2), ("sequential", 0)]


class TestOtherStreamsAndModules:
    def test_domains_share_their_classes(self, tmp_path: Path) -> None:
        source = rows_file(
            tmp_path,
            {
                ("films", "good"): "a moving film",
                ("films", "bad"): "a dull film",
                ("phones", "good"): "a fast phone",
                ("phones", "bad"): "a broken phone",
            },
        )
        stream = {"source": source, "by": "task", "scenario": "domain-incremental"}
        ways = ["frozen", "sequential", "isolated", "joint"]
        run_experiment(parse_experiment(small(tmp_path, stream=stream, strategies=ways)))
        store = AdapterStore(tmp_path / "adapters")
        head = store.show("mini.sequential@2").head
        assert head is not None
        assert head.classes == ("bad", "good")
        joint = store.show("mini.joint.joint").head
        assert joint is not None
        assert set(joint.classes) == {"bad", "good"}

    def test_a_module_of_ones_own_by_class_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "my_module.py").write_text(OWN_MODULE)
        monkeypatch.syspath_prepend(tmp_path)
        module = {"class_path": "my_module.Tiny", "init_args": {"width": 16}}
        run_experiment(parse_experiment(small(tmp_path, module=module, strategies=["sequential"])))
        version = AdapterStore(tmp_path / "adapters").show("mini.sequential")
        assert version.ref == "mini.sequential@3"
        weight = AdapterStore(tmp_path / "adapters").load(version.ref).tensors["head.weight"]
        assert weight.shape == torch.Size([6, 16])

    def test_a_module_without_encode_is_refused_by_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "my_bare_module.py").write_text(OWN_MODULE.replace("def encode", "def features"))
        monkeypatch.syspath_prepend(tmp_path)
        module = {"class_path": "my_bare_module.Tiny", "init_args": {"width": 16}}
        with pytest.raises(UnsupportedError, match=r"needs Tiny to have encode\(\)"):
            run_experiment(parse_experiment(small(tmp_path, module=module, strategies=["sequential"])))
        assert AdapterStore(tmp_path / "adapters").run("mini").status == "failed"
        assert AdapterStore(tmp_path / "adapters").versions() == []


OWN_MODULE = """
import lightning.pytorch as L
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel


class Tiny(L.LightningModule):
    def __init__(self, width: int):
        super().__init__()
        torch.manual_seed(0)
        config = BertConfig(vocab_size=256, hidden_size=width, num_hidden_layers=1, num_attention_heads=2)
        self.bert = BertModel(config)
        self.head = torch.nn.Identity()

    def collate(self, inputs):
        rows = [list(text.encode()[:16].ljust(16)) for text in inputs]
        return {"input_ids": torch.tensor(rows)}

    def encode(self, batch):
        return self.bert(batch["input_ids"]).last_hidden_state.mean(1)

    def forward(self, batch):
        return self.head(self.encode(batch))

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch), batch["labels"])

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)
"""
