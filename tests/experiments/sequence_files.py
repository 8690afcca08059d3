"""A small real sequence for tests: two layers of MiniLM on three pairs of newsgroups."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from contpeft.store import AdapterStore

EXPERIMENT = """\
name: mini
stream:
  source:
    class_path: Newsgroups
    init_args: {classes: [sci.space, sci.med, rec.autos, rec.sport.hockey, talk.politics.guns, comp.graphics]}
  classes_per_task: 2
  train_per_class: 8
  test_per_class: 8
module: {init_args: {max_length: 16, num_layers: 2}}
strategies: [frozen, sequential, isolated, joint]
trainer: {max_epochs: 2}
batch_size: 8
threads: 1
"""


def write_experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    """Returns the path of the experiment's file in ``folder``."""
    path = folder / "mini.yaml"
    path.write_text(text)
    return path


def run_command(commands: Path, experiment: Path, *options: str, folder: Path | None = None) -> list[str]:
    """Returns the command that runs it, with store and reports in ``folder`` (default: beside the file)."""
    folder = folder or experiment.parent
    folders = ["--store", str(folder / "adapters"), "--report", str(folder / "reports")]
    return [str(commands / "contpeft"), "run", str(experiment), *folders, *options]


def run_to_end(commands: Path, experiment: Path, *options: str, folder: Path | None = None) -> str:
    """Runs it in a process of its own and returns what it printed."""
    command = run_command(commands, experiment, *options, folder=folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_after(
    commands: Path, experiment: Path, moment: str, delay: float, *, folder: Path | None = None
) -> None:
    """Starts the run and kills it ``delay`` seconds after it has said ``moment``."""
    kill_command(run_command(commands, experiment, folder=folder), moment, delay)


def kill_command(command: list[str], moment: str, delay: float = 0.0) -> None:
    """Starts a command, which finds the modules of this folder, and kills it after it has said ``moment``."""
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr:
        said = any(line.startswith(moment) for line in process.stderr)
        time.sleep(delay)
        process.kill()
        process.stderr.read()  # until no fork of it can say more
        process.wait()
    assert said, f"the command ended without saying {moment!r}"


def outcome(store_path: Path, run: str) -> tuple[object, object]:
    """Returns what must be equal in two runs: every score, and every version with its digests."""
    store = AdapterStore(store_path, create=False)
    scores = {
        (s.way, s.answer, s.kind, s.step, s.task, s.protocol, s.metric): (
            s.value,
            s.n,
            s.composition,
            s.data,
            s.copied,
        )
        for s in store.scores(run=run)
    }
    versions = {
        v.ref: (v.fingerprint, v.sha256, v.base.fingerprint, v.task, tuple(p.ref for p in v.parents))
        for v in store.versions(run=run)
    }
    store.close()
    return scores, versions
