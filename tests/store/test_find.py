"""Finding versions: every filter alone and together, every order, page by page."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contpeft.errors import NotFoundError, UsageError
from contpeft.store import AdapterStore, Metric

ALL = ["C@1", "b@1", "a@3", "a@2", "a@1"]


def refs(store: AdapterStore, **asked: Any) -> list[str]:
    return [version.ref for version in store.versions(**asked)]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, ALL),
        ({"base": "other-bert"}, ["b@1"]),
        ({"base": "bert"}, []),
        ({"alias": "champion"}, ["b@1", "a@2"]),
        ({"alias": "Champion"}, []),
        ({"tags": ["owner"]}, ["b@1", "a@1"]),
        ({"tags": ["owner=ada"]}, ["a@1"]),
        ({"tags": ["owner", "keep"]}, ["a@1"]),
        ({"tags": ["keep="]}, ["a@1"]),
        ({"tags": ["nobody"]}, []),
        ({"where": {"origin": "imported"}}, ["C@1"]),
        ({"where": {"n": 1}}, ["C@1", "b@1", "a@1"]),
        ({"where": {"data": "d1"}}, ["a@2"]),
        ({"where": {"config.r": 4}}, ["b@1"]),
        ({"where": {"config.r": "4"}}, []),
        ({"where": {"config.flag": True}}, ["b@1"]),
        ({"where": {"config.list": ["q", "v"]}}, ["b@1"]),
        ({"where": {"config.a.b": 0.5}}, ["b@1"]),
        ({"where": {"config.name": "it's"}}, ["b@1"]),
        ({"where": {"config.r": 2}, "alias": "champion"}, ["a@2"]),
        ({"name": "c"}, []),
        # The mean over the tasks learned so far: 0.9, (0.8 + 1.0) / 2, (0.5 + 0.5 + 0.2) / 3.
        ({"metrics": ["accuracy"]}, ["a@3", "a@2", "a@1"]),
        ({"metrics": ["accuracy>=0.9"]}, ["a@2", "a@1"]),
        ({"metrics": ["accuracy > 0.9"]}, []),
        ({"metrics": ["accuracy<.41"]}, ["a@3"]),
        ({"metrics": ["accuracy=9e-1"]}, ["a@2", "a@1"]),
        ({"metrics": ["accuracy@sci.space>=0.5"]}, ["a@3", "a@2"]),
        ({"metrics": ["accuracy@sci.space<=0.1"]}, ["a@1"]),
        ({"metrics": ["accuracy>=0.9", "accuracy@one<0.85"]}, ["a@2"]),
        ({"metrics": ["accuracy>=0.3"], "protocol": "all_classes"}, ["a@3", "a@2", "a@1"]),
        ({"metrics": ["accuracy>0.3"], "protocol": "all_classes"}, []),
        ({"metrics": [Metric("loss", "one", ">", 0)]}, ["a@3", "a@2"]),
        ({"sort": "name"}, ["a@1", "a@2", "a@3", "b@1", "C@1"]),
        ({"sort": "name", "reverse": True}, ["C@1", "b@1", "a@3", "a@2", "a@1"]),
        ({"sort": "created", "reverse": True}, ["a@1", "a@2", "a@3", "b@1", "C@1"]),
        ({"sort": "bytes"}, ["b@1", "C@1", "a@3", "a@2", "a@1"]),
        ({"sort": "metric", "metrics": ["accuracy@one"]}, ["a@1", "a@2", "a@3"]),
        ({"sort": "metric", "metrics": ["accuracy"], "reverse": True}, ["a@3", "a@1", "a@2"]),
        ({"sort": "metric", "metrics": ["loss@one>0"]}, ["a@3", "a@2"]),
    ],
)
def test_filters_and_orders(filled: AdapterStore, asked: dict[str, Any], found: list[str]) -> None:
    assert refs(filled, **asked) == found


@pytest.mark.parametrize("sort", ["created", "name", "bytes", "metric"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_pages_are_the_whole_cut_up(filled: AdapterStore, sort: str, reverse: bool, size: int) -> None:
    metrics = ["accuracy"] if sort == "metric" else []
    asked = {"sort": sort, "reverse": reverse, "metrics": metrics}
    pages: list[list[str]] = []
    for _ in itertools.takewhile(lambda _: not pages or pages[-1], itertools.count()):
        pages.append(refs(filled, limit=size, before=pages[-1][-1] if pages else None, **asked))
    assert list(itertools.chain(*pages)) == refs(filled, **asked)
    assert all(len(page) <= size for page in pages)


def test_by_time(filled: AdapterStore) -> None:
    moment = datetime.fromisoformat(filled.show("a@3").created_at)
    assert refs(filled, since=moment)[-1] == "a@3"
    assert refs(filled, until=moment) == [ref for ref in ALL if ref not in refs(filled, since=moment)]
    assert refs(filled, since=datetime.now(UTC) + timedelta(seconds=5)) == []
    assert refs(filled, until=datetime.now() + timedelta(seconds=5)) == ALL


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"metrics": ["accuracy>=high"]}, r"metric 'accuracy>=high' is not understood; write accuracy>=0.9"),
        ({"metrics": ["accuracy>=nan"]}, r"metric 'accuracy>=nan' is not understood"),
        ({"metrics": [">=0.9"]}, r"metric '>=0.9' is not understood"),
        ({"metrics": ["accuracy!=1"]}, r"metric 'accuracy!=1' is not understood"),
        ({"sort": "metric"}, r"sorting by metric needs a metric"),
        ({"sort": "size"}, r"cannot sort by 'size'"),
        ({"where": {"orign": "x"}}, r"cannot compare 'orign'; did you mean 'origin'"),
        ({"where": {"config.": "x"}}, r"cannot compare 'config.'"),
    ],
)
def test_what_is_asked_wrongly(filled: AdapterStore, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        filled.versions(**asked)


@pytest.mark.parametrize("text", ["x' OR 1=1 --", '"; DROP TABLE version; --', "$", 'a"b'])
def test_values_are_never_sql(filled: AdapterStore, text: str) -> None:
    asked: list[Callable[[], list[str]]] = [
        lambda: refs(filled, base=text),
        lambda: refs(filled, alias=text),
        lambda: refs(filled, tags=[text]),
        lambda: refs(filled, where={"origin": text}),
        lambda: refs(filled, where={"config.r": text}),
        lambda: refs(filled, metrics=[Metric(text, text, ">", 0)]),
    ]
    assert [call() for call in asked] == [[]] * len(asked)
    assert len(filled.versions()) == 5


@pytest.mark.parametrize(("sign", "value"), [("; DROP TABLE tag", 0.0), ("!=", 0.0), (">", float("nan"))])
def test_what_is_no_comparison(sign: str, value: float) -> None:
    with pytest.raises(UsageError, match="metric 'accuracy' cannot be compared"):
        Metric("accuracy", None, sign, value)


def test_a_page_goes_on_after_a_version_that_is_there(filled: AdapterStore) -> None:
    with pytest.raises(NotFoundError):
        filled.versions(before="a@9")
