"""Other people's tools read the catalogue: datasette in a browser, sqlite-utils in a shell."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner
from datasette.app import Datasette
from sqlite_utils.cli import cli
from store_workers import BASE, make_state

from contpeft.spec import Parent
from contpeft.store import AdapterStore

VIEWS = ("version_list", "version_score", "matrix", "forgetting", "lineage")
TABLES = (
    *("adapter", "alias", "alias_change", "base_model", "blob", "event", "pack", "parent", "remote", "run"),
    *("score", "step", "step_version", "tag", "task", "version"),
)


@pytest.fixture
def browsed(filled: AdapterStore) -> AdapterStore:
    """The filled store with a merged version, a moved alias and a remote: no table is empty."""
    parents = [Parent("a@3", "fused", 0.5), Parent("b@1", "fused", 0.5)]
    filled.register("ab", make_state(20), base=BASE, origin="fused", recipe={"rule": "sum"}, parents=parents)
    filled.aliases.set("a@3", "champion")
    filled.aliases.undo("a", "champion")
    filled.transfer.add_remote("team", str(filled.path.parent / "shared"))
    filled.transfer.push("team")
    return filled


@dataclass
class Visit:
    """A datasette of one catalogue, and what it answered."""

    site: Datasette
    answers: dict[str, int] = field(default_factory=dict)

    async def get(self, path: str) -> Any:
        answer = await self.site.client.get(path)
        self.answers[path] = answer.status_code
        return answer

    async def links(self, path: str) -> set[str]:
        """Returns where the links of a page lead that stay within the database."""
        text = (await self.get(path)).text
        return {html.unescape(link) for link in re.findall(r'href="(/store[^"#]*)', text)}

    async def rows(self, path: str) -> Any:
        return (await self.get(path)).json()

    def failures(self) -> dict[str, int]:
        return {path: status for path, status in self.answers.items() if status != 200}


def visit(store: AdapterStore, walk: Callable[[Visit], Awaitable[None]], *, immutable: bool = False) -> None:
    """Walks through a datasette of a store, in this process and without threads."""
    catalogue = [str(store.path / "store.db")]

    async def start() -> None:
        site = Datasette(
            [] if immutable else catalogue,
            immutables=catalogue if immutable else [],
            settings={"num_sql_threads": 0},
        )
        await site.invoke_startup()
        await walk(Visit(site))

    asyncio.run(start())


@pytest.mark.parametrize("queries", [False, pytest.param(True, marks=pytest.mark.acceptance)])
def test_every_page_and_link_answers(browsed: AdapterStore, queries: bool) -> None:
    """With ``queries`` also the links that sort, filter and facet."""

    async def walk(visit: Visit) -> None:
        pages = {f"/store/{name}" for name in (*TABLES, *VIEWS)}
        listed = await visit.links("/store")
        assert pages <= listed
        found = {link for page in listed for link in await visit.links(page)}
        rows = {link for link in found if re.fullmatch(r"/store/\w+/[^/?]+", link)}
        assert {
            "/store/version/1",
            "/store/run/demo",
            "/store/alias/1,champion",
            "/store/tag/1,owner",
        } <= rows
        for link in found - visit.answers.keys():
            if queries or "?" not in link:
                await visit.get(link)
        for page in pages | rows:
            assert await visit.rows(f"{page}.json?_shape=array")
        assert visit.failures() == {}

    visit(browsed, walk)


def test_foreign_keys_lead_to_rows_with_their_labels(browsed: AdapterStore) -> None:
    async def walk(visit: Visit) -> None:
        for name in (*TABLES, *VIEWS):
            await visit.rows(f"/store/{name}.json?_labels=on")
        (version,) = await visit.rows("/store/version.json?_labels=on&_shape=array&id=6")
        assert (version["adapter_id"], version["base_id"]) == (
            {"value": 4, "label": "ab"},
            {"value": 1, "label": "tiny-bert"},
        )
        (step,) = await visit.rows("/store/step.json?_labels=on&_shape=array&step=1")
        assert step["run"] == {"value": "demo", "label": "demo"}
        assert {"/store/version/3", "/store/version/4", "/store/version/6"} <= await visit.links(
            "/store/parent"
        )
        (parent,) = await visit.rows("/store/version/4.json?_shape=array")
        assert (parent["kind"], parent["n"]) == ("dora", 1)
        assert visit.failures() == {}

    visit(browsed, walk)


def test_views_are_filtered_as_numbers(browsed: AdapterStore) -> None:
    """On a copy that nobody writes, which datasette may cache."""

    async def walk(visit: Visit) -> None:
        async def refs(condition: str) -> list[str]:
            rows = await visit.rows(f"/store/version_list.json?{condition}&_sort=ref&_shape=array")
            return [row["ref"] for row in rows]

        assert await refs("accuracy__gt=0.85") == ["a@1", "a@2"]
        assert await refs("accuracy__gt=0.9") == []
        assert await refs("accuracy__gte=0.9") == ["a@1", "a@2"]
        assert await refs("accuracy__lt=0.9") == ["a@3"]
        assert await refs("aliases__contains=champion") == ["a@2", "b@1"]
        assert await refs("parents__gt=0") == ["ab@1"]
        (row,) = await visit.rows("/store/forgetting.json?forgetting__gt=0.45&metric=accuracy&_shape=array")
        assert (row["task"], row["best_before"], row["final"]) == ("sci.space", 1.0, 0.5)
        assert visit.failures() == {}

    copy = AdapterStore(browsed.path.parent / "copy")
    browsed.upkeep.backup(copy.path)
    visit(copy, walk, immutable=True)


def sqlite_utils(*arguments: str) -> str:
    ran = CliRunner().invoke(cli, arguments)
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_sqlite_utils_reads_views_and_tables(browsed: AdapterStore) -> None:
    catalogue = str(browsed.path / "store.db")
    sql = "SELECT ref, aliases, accuracy FROM version_list WHERE accuracy > 0.8 ORDER BY id"
    assert json.loads(sqlite_utils("query", catalogue, sql)) == [
        {"ref": "a@1", "aliases": None, "accuracy": 0.9},
        {"ref": "a@2", "aliases": "champion", "accuracy": 0.9},
    ]
    lines = sqlite_utils("rows", catalogue, "event", "--nl").splitlines()
    assert [(row["action"], row["subject"]) for row in map(json.loads, lines)] == [
        (event.action, event.subject) for event in browsed.events()
    ]
    assert set(VIEWS) < set(sqlite_utils("views", catalogue, "--csv").split())
