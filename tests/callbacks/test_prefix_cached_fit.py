"""Fits that compute the layers below the adapter once a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from callbacks_tiny import TinyModule, ValidatedModule, learn, task_loader

from contpeft import AdapterSpec, AdapterStore, ContinualAdapter
from contpeft.adapters import PrefixCache
from contpeft.errors import UnsupportedError

TOP = AdapterSpec("lora", r=4, layers_to_transform=[1])


def fit(
    folder: Path, cache: Any, module: TinyModule | None = None, **options: Any
) -> dict[str, torch.Tensor]:
    store = AdapterStore(folder / "store")
    torch.manual_seed(0)
    learn(module or TinyModule(), ContinualAdapter(store, "a", TOP, prefix_cache=cache), epochs=3, **options)
    tensors = store.load("a@1").tensors
    store.close()
    return dict(tensors)


def test_a_fit_ends_in_the_same_bits_whatever_is_kept(tmp_path: Path) -> None:
    cache = PrefixCache("1MB")
    made = [fit(tmp_path / str(n), each) for n, each in enumerate((cache, cache, "1MB", 2000, 1))]
    for other in made[1:]:
        assert all(torch.equal(other[name], tensor) for name, tensor in made[0].items())
    assert (cache.misses, cache.hits) == (32, 5 * 32)


def test_a_fit_learns_what_it_learns_without_a_cache(tmp_path: Path) -> None:
    plain, cached = fit(tmp_path / "plain", None), fit(tmp_path / "cached", "1MB")
    for name, tensor in plain.items():
        torch.testing.assert_close(cached[name], tensor, atol=2e-3, rtol=1e-2)


def test_validation_reads_the_cache_too(tmp_path: Path) -> None:
    cache, module = PrefixCache("1MB"), ValidatedModule()
    module.val_dataloader = task_loader  # type: ignore[method-assign]
    fit(tmp_path, cache, module)
    assert cache.misses == 32
    assert "forward" not in vars(module.model)


@pytest.mark.parametrize(
    ("spec", "mode", "named"),
    [
        (AdapterSpec("lora", r=4), "eval", "this adapter changes the first of 2"),
        (TOP, "train", "use backbone_mode='eval'"),
    ],
)
def test_what_has_no_still_prefix_is_refused(
    tmp_path: Path, spec: AdapterSpec, mode: Any, named: str
) -> None:
    module = TinyModule()
    with pytest.raises(UnsupportedError, match=named):
        learn(module, ContinualAdapter(tmp_path, "a", spec, backbone_mode=mode, prefix_cache="1MB"))
    assert "forward" not in vars(module.model)
