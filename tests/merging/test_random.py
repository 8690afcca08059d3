from __future__ import annotations

import numpy as np
import torch

from contpeft.merging.random import keep_mask, raw_integers


def test_draws_are_golden() -> None:
    # A change of these would change every seeded merge ever stored.
    assert raw_integers(2, 0, "layer.0.query", "a" * 64).tolist() == GOLDEN


def test_draws_depend_on_the_key_alone() -> None:
    first = raw_integers(5, 1, "m", "a")
    raw_integers(1000, 2, "other", "b")
    assert raw_integers(5, 1, "m", "a").tolist() == first.tolist()
    assert raw_integers(8, 1, "m", "a").tolist()[:5] == first.tolist()
    for key in ((2, "m", "a"), (1, "n", "a"), (1, "m", "b"), (1, "ma", "")):
        assert raw_integers(5, *key).tolist() != first.tolist()


def test_a_mask_keeps_each_entry_with_its_own_probability() -> None:
    chances = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0]).repeat(20_000, 1)
    kept = keep_mask(chances, "x").double().mean(0)
    assert kept[0] == 0
    assert kept[4] == 1
    np.testing.assert_allclose(kept, [0, 0.1, 0.5, 0.9, 1], atol=0.01)


GOLDEN = [14214925489138113900, 14104682022140178863]
