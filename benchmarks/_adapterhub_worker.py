"""AdapterFusion by AdapterHub's library, in the environment that it needs; see _adapterhub.py.

    python _adapterhub_worker.py FOLDER

Reads one command a line and answers with one line: ``forward N``, ``training N`` (of the model with N fused
adapters, of the base for 0) with CPU seconds, ``outputs N`` with the file it wrote.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

# By name: to whoever reads the benchmarks' own folder, "adapters" is the benchmark.
library: Any = import_module("adapters")
Fuse: Any = import_module("adapters.composition").Fuse

FOLDER = Path(sys.argv[1])


@cache
def model(count: int) -> Any:
    """Returns the model with so many adapters fused, in eval mode."""
    made: Any = BertModel(
        BertConfig(**json.loads((FOLDER / "config.json").read_text())), add_pooling_layer=False
    )
    if count:
        library.init(made)
        names = [f"a{place}" for place in range(count)]
        for name in names:
            made.add_adapter(name, config=library.SeqBnConfig(reduction_factor=16))
        made.add_adapter_fusion(Fuse(*names))
        made.train_adapter_fusion(Fuse(*names))
    else:
        made.requires_grad_(False)
    missing, foreign = made.load_state_dict(load_file(FOLDER / f"{count}.safetensors"), strict=False)
    # The library keeps a second name for the word embeddings.
    if foreign or any(not name.startswith("prompt_tuning.") for name in missing):
        raise SystemExit(f"tensors do not fit: missing {missing}, foreign {foreign}")
    return made.eval()


def ids() -> Tensor:
    """Returns what is read, ``(B, T)``."""
    return load_file(FOLDER / "ids.safetensors")["ids"]


def forward(count: int) -> float:
    """Returns the CPU seconds of one pass."""
    made, read = model(count).eval(), ids()
    with torch.no_grad():
        return seconds(lambda: made(read))


def training(count: int) -> float:
    """Returns the CPU seconds of one pass and its gradients; of the base, those of what it reads."""
    made, read = model(count).train(), ids()
    given = made.embeddings.word_embeddings(read).detach().requires_grad_(count == 0)
    made.zero_grad()
    return seconds(lambda: made(inputs_embeds=given).last_hidden_state.sum().backward())


def outputs(count: int) -> str:
    """Writes what the model answers, and what its first fusion layer was given and said, in float64."""
    made, found = model(count).eval().double(), dict[str, Tensor]()
    layer = next(iter(made.encoder.layer[0].output.adapter_fusion_layer.values()))

    def keep(_: Any, given: tuple[Tensor, ...], said: Tensor) -> None:
        named = zip(("source", "key", "outputs", "residual"), given, strict=False)
        found.update({name: each.detach().clone() for name, each in named}, said=said.detach().clone())

    handle = layer.register_forward_hook(keep)
    with torch.no_grad():
        found["states"] = made(ids()).last_hidden_state
    handle.remove()
    made.float()
    path = FOLDER / f"outputs-{count}.safetensors"
    save_file({name: each.contiguous() for name, each in found.items()}, path)
    return str(path)


def seconds(work: Callable[[], object]) -> float:
    """Returns the CPU time of this process that ``work`` takes."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Answers until the input ends."""
    torch.set_num_threads(1)
    commands: dict[str, Callable[[int], object]] = {
        "forward": forward,
        "training": training,
        "outputs": outputs,
    }
    for line in sys.stdin:
        command, count = line.split()
        print("answer", commands[command](int(count)), flush=True)


if __name__ == "__main__":
    main()
