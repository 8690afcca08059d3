"""A store of tickets with fusions in it: over LoRA, with the head that knows all classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from evaluation_files import BILLING, BOTH, TRAVEL

from contpeft.adapters import AdaptedModel
from contpeft.adapters.fusion import FusionOptions
from contpeft.experiments import TextClassifier
from contpeft.spec import Parent, Version
from contpeft.store import AdapterStore

OVER = (BILLING, TRAVEL, BOTH)


def add_fusion(store: AdapterStore, name: str = "all", options: FusionOptions | None = None) -> Version:
    """Stores a fusion over three adapters, random all over, that answers with the head of a fourth."""
    adapted = AdaptedModel.of(TextClassifier(max_length=16, num_layers=1))
    members = [(store.show(ref), store.load(ref)) for ref in OVER]
    torch.manual_seed(0)
    for parameter in adapted.attach_fusion(members, options).parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    lent, made = store.load(BOTH), adapted.state()
    tensors = {key: value for key, value in made.tensors.items() if not key.startswith("head.")}
    heads = {key: value for key, value in lent.tensors.items() if key.startswith("head.")}
    state = replace(made, tensors=tensors | heads, head=lent.head)
    return store.register(
        name, state, base=adapted.base, parents=[Parent(version.ref, "frozen") for version, _ in members]
    )
