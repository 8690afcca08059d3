"""Libraries that are not in every installation are missed by name, with what brings them."""

from __future__ import annotations

import json

import pytest

from contpeft.errors import NotFoundError
from contpeft.experiments.optional import import_optional


def test_what_is_installed_is_imported() -> None:
    assert import_optional("json", "reading") is json


def test_what_is_missing_is_told_with_its_purpose_and_the_extra_that_brings_it() -> None:
    with pytest.raises(NotFoundError) as caught:
        import_optional("nothing_of_that_name", "searching", "nothing-at-all", extra="search")
    assert str(caught.value) == (
        "searching needs nothing-at-all (No module named 'nothing_of_that_name'); "
        "pip install 'contpeft[search]'"
    )
