"""A store of many versions answers as fast as a small one, in little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from store_audit import audit
from store_workers import BASE, make_state

from contpeft.store import AdapterStore

LINE = 50
# A file system allows one file some ten thousand names.
NAMES_OF_A_FILE = 10_000

_K = "WITH RECURSIVE k (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < :count - 1) "
_COPIED = "kind, fingerprint, parameters, config, base_id, origin, environment"
_FILL = (
    f"{_K} INSERT INTO blob (sha256, bytes) SELECT printf('%064x', i), (SELECT bytes FROM blob) FROM k",
    f"{_K} INSERT INTO adapter (name) SELECT 'line-' || (i / :line) FROM k WHERE i % :line = 0",
    f"{_K} INSERT INTO version (adapter_id, n, sha256, identity, uid, {_COPIED}) "
    f"SELECT i / :line + 1, i % :line + 1, printf('%064x', i), i, i, {_COPIED} FROM k, version WHERE id = 1",
    "UPDATE adapter SET next_n = 1 + (SELECT max(n) FROM version WHERE adapter_id = adapter.id)",
    "INSERT INTO event (actor, action, subject, detail) SELECT 'ada', 'version.registered', "
    "adapter.name || '@' || n, '{}' FROM version JOIN adapter ON adapter.id = adapter_id "
    "WHERE version.id > 1",
)

# Run in a process of its own, which loads neither torch nor the test.
_MEASURE = """
import json, re, sys, time
from contpeft.store import AdapterStore
store = AdapterStore(sys.argv[1])
newest = store.versions(limit=1)[0]
started = time.process_time()
pages = [store.versions(limit=50), store.versions(limit=50, before="line-1@1"), store.versions(name="line-1")]
listed = time.process_time() - started
checked = store.upkeep.fsck(quick=True)
# Unlike ru_maxrss, this is not what the parent held when it started this process.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
print(json.dumps({
    "newest": newest.ref, "pages": [len(page) for page in pages], "listed": listed,
    "checked": [checked.versions, checked.files, len(checked.findings)], "seconds": checked.seconds,
    "peak": peak, "torch": "torch" in sys.modules,
}))
"""


def fill(store: AdapterStore, count: int) -> None:
    """Adds versions in lines of 50 to a store of one, each with a file that is a name of a few."""
    version = store.register("line-0", make_state(), base=BASE)
    with store._db.write() as connection:
        for statement in _FILL:
            connection.execute(statement, {"count": count, "line": LINE})
    source = data = store._blobs.path(version.sha256)
    for number in range(1, count):
        path = store._blobs.path(f"{number:064x}")
        path.parent.mkdir(exist_ok=True)
        if number % NAMES_OF_A_FILE == 0:
            path.write_bytes(data.read_bytes())
            source = path
        else:
            os.link(source, path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("count", [3_000, pytest.param(100_000, marks=pytest.mark.acceptance)])
def test_many_versions(store: AdapterStore, count: int) -> None:
    fill(store, count)
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(store.path)], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(ran.stdout)
    assert (found["newest"], found["torch"]) == (f"line-{count // LINE - 1}@{LINE}", False)
    assert found["pages"] == [50, 50, LINE]
    assert found["checked"] == [count, count, 0]
    assert found["listed"] < 3 * 0.05, found
    assert found["seconds"] < 5, found
    assert found["peak"] < 200, found
    assert [each for each in audit(store.path) if not each.startswith("torn")] == []
