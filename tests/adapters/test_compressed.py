"""Versions on a shared basis answer in a model, attached from the store and by PEFT, as they did before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapters_tiny import IDS, bert, logits
from peft import LoraConfig, PeftModel
from torch import nn

from contpeft.adapters import AdaptedModel
from contpeft.spec import Single
from contpeft.store import AdapterStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AdapterStore]:
    opened = AdapterStore(tmp_path / "store")
    yield opened
    opened.close()


def learn(store: AdapterStore, count: int) -> list[torch.Tensor]:
    """Registers adapters of other ranks and scalings each, and returns what they answer."""
    answers = []
    for place in range(count):
        model = bert()
        adapted = AdaptedModel.of(model)
        torch.manual_seed(place)
        options = {"r": 2 + place, "lora_alpha": 7, "use_rslora": bool(place % 2)}
        spec = LoraConfig(target_modules=["query", "value"], **options)
        for parameter in adapted.attach(spec).parameters():
            nn.init.normal_(parameter, std=0.5)
        store.register(f"a{place}", adapted.state(), base=adapted.base)
        answers.append(logits(model, IDS))
    return answers


def test_with_room_enough_they_answer_as_before(store: AdapterStore, tmp_path: Path) -> None:
    before = learn(store, 3)
    plain = logits(bert(), IDS)
    done = store.compression.compress([f"a{place}" for place in range(3)], 10**6)
    for ref, expected in zip(done.refs, before, strict=True):
        effect = (expected - plain).abs().max()
        assert effect > 1e-3
        model = bert()
        adapted = AdaptedModel.of(model)
        with adapted.applied(Single(ref), lambda each: (store.show(each), store.load(each))):
            assert (logits(model, IDS) - expected).abs().max() < 1e-4 * effect
        folder = tmp_path / ref.partition("@")[0]
        store.exchange.export_folder(ref, folder)
        served = PeftModel.from_pretrained(bert(), folder).eval()
        assert (logits(served, IDS) - expected).abs().max() < 1e-4 * effect
        store.exchange.export_folder(ref, folder / "serving", profile="serving")
        served = PeftModel.from_pretrained(bert(), folder / "serving").eval()
        assert (logits(served, IDS) - expected).abs().max() < 1e-4 * effect
