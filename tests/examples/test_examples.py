"""The examples run as they are, from the shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from contpeft import AdapterStore

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_add_to_your_trainer(commands: Path, tmp_path: Path) -> None:
    sizes = ["--rows", "24", "--layers", "2", "--epochs", "1"]
    ran = subprocess.run(
        [commands / "python", EXAMPLES / "add_to_your_trainer.py", *sizes],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    store = AdapterStore(tmp_path / "adapters", create=False)
    computers, sport = store.versions()
    assert (sport.ref, computers.ref) == ("sport@1", "computers@1")
    assert sport.base == computers.base
    assert sport.head is not None
    assert sport.head.classes == ("rec.sport.baseball", "rec.sport.hockey")
    own, current = store.scores()
    assert (own.task, own.answer, current.task, current.answer) == ("sport", "own", "sport", "current")
    assert ran.stdout.endswith(
        "\nThe task learnt first, asked again at the end:\n"
        f"  sport answered by sport: {own.value:.1%} right\n"
        f"  sport answered by computers@1: {current.value:.1%} right\n"
    ), ran.stdout
    # The task still scores what it scored when it was learnt, by an adapter of its own.
    assert f"sport@1: 24,576 parameters trained, {own.value:.1%} right\n" in ran.stdout
    assert "computers@1: 24,576 parameters trained, " in ran.stdout
    checkpoints = sorted(tmp_path.rglob("*.ckpt"))
    assert len(checkpoints) == 2
    for path in checkpoints:
        assert len(torch.load(path, weights_only=True)["state_dict"]) == 2 * 2 * 2 + 2
    store.close()
