from __future__ import annotations

import pytest

from contpeft.errors import SpecError
from contpeft.merging import Rank


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("full", "full", 0),
        ("same", "same", 0),
        ("16", "number", 16),
        ("energy:0.95", "energy", 0.95),
        ("energy:1", "energy", 1),
        ("total:384", "total", 384),
        ("bytes:2MB", "bytes", 2_000_000),
        ("bytes:1.5k", "bytes", 1500),
    ],
)
def test_a_rank_is_what_it_spells_and_spells_itself_again(text: str, kind: str, value: float) -> None:
    rank = Rank.parse(text)
    assert (rank.kind, rank.value) == (kind, value)
    assert Rank.parse(str(rank)) == rank


@pytest.mark.parametrize(
    "text", ["0", "-1", "energy:0", "energy:1.5", "energy:", "bytes:x", "total:0", "most", "²"]
)
def test_what_is_no_rank_is_refused_with_the_forms_there_are(text: str) -> None:
    with pytest.raises(SpecError, match="cannot be meant; write 'full', 'same', 16"):
        Rank.parse(text)
