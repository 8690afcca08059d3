"""What many adapters at once cost: fused, mixed in one batch, stored by the hundred.

    make bench-adapters

CPU time on one thread; both sides of each line in turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _adapterhub import against_adapterhub
from _encoder import encoder
from _harness import Comparison, compare, cpu_seconds, in_turn, save
from _many import Peft, Stored, attaching, stepping, switching
from peft import LoraConfig, get_peft_model
from torch import Tensor

from contpeft.adapters.fusion import Bottlenecks, FusionLayer
from contpeft.adapters.stacked import StackedLora
from contpeft.spec import AdapterState

PAIRS, ROWS, LENGTH, WIDTH, BOTTLENECK = 9, 8, 64, 256, 16
GOALS: dict[int, float | None] = {2: None, 4: 1 / 2, 8: 1 / 3, 16: 1 / 5}
RANK, MIXED = 8, 8


def fusing(count: int) -> list[Comparison]:
    """One fused site, folded, beside the same maths with what every adapter says written out."""
    layer = FusionLayer(WIDTH)
    said, residual = torch.randn(2, ROWS, LENGTH, WIDTH)
    hidden = torch.randn(ROWS, LENGTH, count, BOTTLENECK)
    adapters = Bottlenecks(hidden, torch.randn(count, WIDTH, BOTTLENECK) / 16, torch.randn(count, WIDTH))

    def folded() -> Tensor:
        return layer.folded(said, adapters, residual)

    def plain() -> Tensor:
        out: Tensor = layer(said, adapters.outputs(), residual)
        return out

    def forward(side: Callable[[], Tensor]) -> float:
        with torch.no_grad():
            return cpu_seconds(side)

    def training(side: Callable[[], Tensor]) -> float:
        return cpu_seconds(lambda: torch.autograd.backward(side().sum()))

    sides, found = ("folded", "plain"), []
    for what, measure, goal in (("forward", forward, GOALS[count]), ("training", training, None)):
        measure(folded), measure(plain)
        pairs = in_turn(partial(measure, folded), partial(measure, plain), PAIRS)
        found.append(
            compare(f"fusion of {count}, {what}", sides, [(1e3 * a, 1e3 * b) for a, b in pairs], "ms", goal)
        )
    return found


def mixing() -> list[Comparison]:
    """A batch whose rows use different adapters, beside PEFT's; and what the adapters alone add."""
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["query", "value"])
    model: Any = get_peft_model(encoder(), config, adapter_name="a0")
    for place in range(1, MIXED):
        model.add_adapter(f"a{place}", config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.eval()
    told = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["query", "value"]}
    states = [
        AdapterState(
            "lora",
            told,
            {n.replace(f".a{i}.", "."): p.detach() for n, p in model.named_parameters() if f".a{i}." in n},
        )
        for i in range(MIXED)
    ]
    base, stack = encoder(), StackedLora(states)
    ids, rows = torch.randint(0, 1000, (4 * MIXED, 32)), torch.arange(4 * MIXED) % MIXED
    names = [f"a{row}" for row in rows.tolist()]

    @torch.no_grad()
    def ours() -> Tensor:
        with stack.by_row(base, rows):
            out: Tensor = base(ids).last_hidden_state
            return out

    @torch.no_grad()
    def theirs() -> Tensor:
        out: Tensor = model(ids, adapter_names=names).last_hidden_state
        return out

    apart = float((ours() - theirs()).abs().max())
    if not apart < 1e-4:
        raise SystemExit(f"PEFT and contpeft answer otherwise, by {apart:.1e}")
    pairs = in_turn(partial(cpu_seconds, ours), partial(cpu_seconds, theirs), PAIRS)
    with torch.no_grad():
        alone = min(cpu_seconds(lambda: base(ids)) for _ in range(PAIRS))
    added = [(1e3 * max(a - alone, 1e-6), 1e3 * max(b - alone, 1e-6)) for a, b in pairs]
    label, sides = f"a batch of {len(rows)} rows and {MIXED} adapters", ("contpeft", "PEFT")
    return [
        compare(label, sides, [(1e3 * a, 1e3 * b) for a, b in pairs], "ms"),
        compare(f"{label}, what adapters add to the base", sides, added, "ms"),
    ]


def main() -> None:
    """Measures everything, prints it and writes it down."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        comparisons = [each for count in GOALS for each in fusing(count)]
        comparisons += [*against_adapterhub(), *mixing()]
        stored, peft = Stored(Path(name)), Peft()
        comparisons += [*switching(stored, peft), *attaching(stored, peft), *stepping()]
    print(*comparisons, sep="\n")
    print(f"results in {save('adapters', comparisons, {'rows': ROWS, 'length': LENGTH, 'width': WIDTH})}")


if __name__ == "__main__":
    main()
