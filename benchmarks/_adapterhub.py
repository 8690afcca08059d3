"""Fused adapters in a whole model, beside the library that AdapterFusion comes with, and equal to it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from _harness import Comparison, compare, cpu_seconds, in_turn
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from contpeft import AdapterStore
from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import FusionLayer, FusionOptions, Member
from contpeft.spec import AdapterSpec
from contpeft.spec.lora import ROOT

__all__ = ["against_adapterhub"]

PYTHON: Final = Path(__file__).parents[1] / ".venv-adapterhub" / "bin" / "python"
WORKER: Final = Path(__file__).parent / "_adapterhub_worker.py"
COUNTS: Final = (2, 4, 8, 16)
TURNS: Final = 5
# Largest part of what their fusion adds to the time of the base that ours may add.
GOALS: Final = {4: 1 / 2, 8: 1 / 3, 16: 1 / 5}
SIZES: Final[dict[str, Any]] = {
    "vocab_size": 1000,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "intermediate_size": 1024,
}
# By how much two implementations of the same sums in float64 may differ.
APART: Final = 1e-9
SIDES: Final = ("contpeft", "AdapterHub")

Ask = Callable[[str, int], str]


def base() -> Any:
    """Returns a small BERT with random weights."""
    torch.manual_seed(0)
    model: Any = BertModel(BertConfig(**SIZES), add_pooling_layer=False)
    return model.eval()


class Fused:
    """Our side: the model with so many adapters fused; the base alone for 0.

    Args:
        folder: where the adapters are stored, and the same weights written for the other side.
        count: of adapters.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.ids = load_file(folder / "ids.safetensors")["ids"]
        self.model = base()
        self.adapted = AdaptedModel.of(self.model)
        tensors = dict(self.model.state_dict())
        if count:
            members = _members(folder, count)
            fusion = self.adapted.attach_fusion(members)
            torch.manual_seed(count)
            for name, parameter in fusion.named_parameters().items():
                torch.nn.init.normal_(parameter, std=0.05)
                if name.endswith("value.offset"):  # such that they can hold it, the identity added
                    _round(parameter)
            tensors |= _their_names(members, fusion.tensors())
        self.adapted.train_only()
        save_file(
            {name: each.contiguous() for name, each in tensors.items()}, folder / f"{count}.safetensors"
        )
        self._base = count == 0

    def forward(self) -> float:
        """Returns the CPU seconds of one pass."""
        self.model.eval()
        with torch.no_grad():
            return cpu_seconds(lambda: self.model(self.ids))

    def training(self) -> float:
        """Returns the CPU seconds of one pass and its gradients; of the base, those of what it reads."""
        self.model.train()
        given = self.model.embeddings.word_embeddings(self.ids).detach().requires_grad_(self._base)
        self.model.zero_grad()
        return cpu_seconds(lambda: self.model(inputs_embeds=given).last_hidden_state.sum().backward())

    @torch.no_grad()
    def differs(self, theirs: dict[str, Tensor]) -> tuple[float, float]:
        """Returns by how much, at most, a fusion layer and the whole model differ from theirs, in float64."""
        self.model.eval().double()
        site: Any = self.model.encoder.layer[0].output.LayerNorm
        layer = FusionLayer(SIZES["hidden_size"], FusionOptions()).double()
        layer.load_state_dict(site.fusion.state_dict())
        said = layer(theirs["source"], theirs["outputs"], theirs["residual"])
        states = self.model(self.ids).last_hidden_state
        self.model.float()
        return float((said - theirs["said"]).abs().max()), float((states - theirs["states"]).abs().max())


def against_adapterhub() -> list[Comparison]:
    """Compares forward passes and training steps; says so where the library is not installed.

    Raises:
        SystemExit: if both sides do not compute the same.
    """
    if not PYTHON.exists():
        print("not compared with AdapterHub's library, which is not installed: make bench-adapters does that")
        return []
    with tempfile.TemporaryDirectory() as name, _worker(Path(name)) as ask:
        ours = {count: Fused(Path(name), count) for count in (0, *COUNTS)}
        for count in COUNTS:
            theirs = load_file(ask("outputs", count))
            layer, model = ours[count].differs(theirs)
            print(f"fusion of {count} and AdapterHub's: layer apart by {layer:.1e}, model by {model:.1e}")
            if not max(layer, model) < APART:
                raise SystemExit(f"AdapterHub and contpeft answer otherwise, by {max(layer, model):.1e}")
        return [each for count in COUNTS for each in _compared(ours, ask, count)]


def _compared(ours: dict[int, Fused], ask: Ask, count: int) -> Iterator[Comparison]:
    for what, goal in (("forward", GOALS.get(count)), ("training", None)):
        sides = {each: _sides(ours[each], ask, what, each) for each in (count, 0)}
        for mine, theirs in sides.values():
            mine(), theirs()
        # The base in between, so that what others do on this machine weighs on both alike.
        turns = [[in_turn(*sides[each], 2) for each in (count, 0)] for _ in range(TURNS)]
        whole, alone = (list(chain.from_iterable(turn[place] for turn in turns)) for place in (0, 1))
        label = f"a model with {count} fused adapters, {what}"
        yield compare(label, SIDES, [(1e3 * a, 1e3 * b) for a, b in whole], "ms")
        base = [1e3 * median(column) for column in zip(*alone, strict=True)]
        added = [(max(1e3 * a - base[0], 1e-3), max(1e3 * b - base[1], 1e-3)) for a, b in whole]
        yield compare(f"{label}, what the fusion adds to the base", SIDES, added, "ms", goal)


def _sides(mine: Fused, ask: Ask, what: str, count: int) -> tuple[Callable[[], float], Callable[[], float]]:
    ours = {"forward": mine.forward, "training": mine.training}[what]
    return ours, lambda: float(ask(what, count))


@contextmanager
def _worker(folder: Path) -> Iterator[Ask]:
    """Yields a way to ask the other environment, which stays there inside the block."""
    torch.manual_seed(0)
    save_file({"ids": torch.randint(0, SIZES["vocab_size"], (8, 64))}, folder / "ids.safetensors")
    (folder / "config.json").write_text(json.dumps(SIZES))
    complaints = folder / "stderr.txt"
    with (
        complaints.open("w") as errors,
        subprocess.Popen(
            [PYTHON, "-P", WORKER, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(what: str, count: int) -> str:
            print(what, count, file=process.stdin, flush=True)
            for line in process.stdout or ():
                if line.startswith("answer "):
                    return line.removeprefix("answer ").strip()
            raise SystemExit(f"AdapterHub's side stopped at '{what} {count}':\n{complaints.read_text()}")

        try:
            yield ask
        finally:
            process.stdin.close()


@cache
def _store(folder: Path) -> AdapterStore:
    store, adapted = AdapterStore(folder / "store"), AdaptedModel.of(base())
    for place in range(max(COUNTS)):
        torch.manual_seed(place)
        for parameter in adapted.attach(AdapterSpec("pfeiffer", reduction_factor=16)).parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        store.register(f"a{place}", adapted.state(), base=adapted.base)
        adapted.detach()
    return store


@torch.no_grad()
def _round(offset: torch.nn.Parameter) -> None:
    identity = torch.eye(len(offset))
    offset.copy_((identity + offset) - identity)


def _members(folder: Path, count: int) -> list[Member]:
    store = _store(folder)
    return [(store.show(f"a{place}"), store.load(f"a{place}")) for place in range(count)]


def _their_names(members: list[Member], fusion: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns adapters and fusion under the names of AdapterHub's library."""
    found = {}
    for place, (_, state) in enumerate(members):
        for name, tensor in state.adapter_tensors().items():
            site, _, part = name.removeprefix(ROOT).partition(".LayerNorm.bottleneck_")
            part = part.replace("down.", "adapter_down.0.").replace("up.", "adapter_up.")
            found[f"{site}.adapters.a{place}.{part}"] = tensor
    fused = ",".join(f"a{place}" for place in range(len(members)))
    for name, tensor in fusion.items():
        site, _, part = name.removeprefix(ROOT).partition(".LayerNorm.fusion.")
        value = part == "value.offset"
        found[f"{site}.adapter_fusion_layer.{fused}.{'value.weight' if value else part}"] = (
            tensor + torch.eye(len(tensor)) if value else tensor
        )
    return found
