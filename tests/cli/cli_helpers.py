"""What the tests of the command line build stores from and read output with."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from typer.testing import CliRunner, Result

from contpeft.cli import app
from contpeft.spec import AdapterState, BaseModel, HeadSpec

BASE = BaseModel("tiny-bert", "ba5e" * 16, 1234)
HEAD = HeadSpec("cosine", ("no", "yes"), {"scale": 10.0})


def state(value: float, head: HeadSpec | None = None) -> AdapterState:
    tensors = {"q.lora_A.weight": torch.full((2, 4), value), "q.lora_B.weight": torch.zeros(4, 2)}
    if head:
        tensors["head.weight"] = torch.ones(2, 4)
    config = {"peft_type": "LORA", "r": 2, "layers": None, "target_modules": ["q"]}
    return AdapterState("lora", config, tensors, head)


def undated(text: str) -> str:
    """Returns ``text`` with dates, digests and the software replaced by what they are."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "<date>          ", text)
    return re.sub(r"\b[0-9a-f]{64}\b", "<sha256>", text)


def printed(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def told(result: Result) -> tuple[str, str]:
    """Returns the answer of a command that succeeded, and what it said about it."""
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def completed(store: Path, line: str) -> list[str]:
    """Returns what a shell would offer for the last word of ``line``."""
    words = line.split(" ")
    environment = {
        "_CONTPEFT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "CONTPEFT_STORE": str(store),
    }
    return CliRunner().invoke(app, [], prog_name="contpeft", env=environment).stdout.split()
