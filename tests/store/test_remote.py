"""Shared folders: on a disk and behind the S3 protocol, used by several stores at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import fsspec
import pytest
from store_audit import audit
from store_exchange import content, fill
from store_processes import PROCESSES, run_all, wait_for_lines
from store_workers import BASE, acknowledged, make_state, push_for_ever, push_many

from contpeft.errors import IntegrityError, NotFoundError, SpecError, StoreBusyError, UsageError
from contpeft.store import AdapterStore, Remote
from contpeft.store.transfer.remote import RemoteFolder


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Returns the address of a server on this machine that speaks the S3 protocol."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 60
        while not answers(port):
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        server.kill()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the address of a bucket."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    fsspec.filesystem("s3", skip_instance_cache=True).makedirs("adapters", exist_ok=True)
    return "s3://adapters"


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Returns where an empty shared folder is."""
    if request.param == "folder":
        return str(tmp_path / "hub")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}"


def joined(path: Path, url: str) -> AdapterStore:
    store = AdapterStore(path)
    store.transfer.add_remote("hub", url)
    return store


def test_everything_travels(tmp_path: Path, url: str) -> None:
    a, b = fill(tmp_path / "a"), joined(tmp_path / "b", url)
    a.transfer.add_remote("hub", url)
    told = a.transfer.push("hub", dry_run=True)
    assert RemoteFolder(url).packs() == []
    sent = a.transfer.push("hub")
    assert sent == told
    # Four versions, a run, an alias and the tags of one version.
    assert (len(sent.versions), sent.records, sent.files) == (4, 7, 4)
    assert sent.bytes == sum(version.bytes for version in a.versions())
    assert (a.transfer.push("hub").records, a.transfer.push("hub").files) == (0, 0)
    told_back = b.transfer.pull("hub", dry_run=True)
    assert b.versions() == []
    assert b.transfer.pull("hub") == told_back
    assert content(b) == content(a)
    assert (b.transfer.pull("hub").versions, b.transfer.push("hub").records) == ((), 0)
    # Only what is new goes, and comes.
    a.tags.set("both", {"owner": "ada"})
    b.register("both", make_state(50), base=BASE)
    assert (a.transfer.push("hub").versions, b.transfer.push("hub").versions) == ((), ("both@2",))
    assert (a.transfer.pull("hub").versions, b.transfer.pull("hub").versions) == (("both@2",), ())
    assert content(b) == content(a)
    assert (audit(a.path), audit(b.path)) == ([], [])


def test_one_version_takes_along_what_it_needs(tmp_path: Path, url: str) -> None:
    a, b = fill(tmp_path / "a"), joined(tmp_path / "b", url)
    a.transfer.add_remote("hub", url)
    assert a.transfer.push("hub", ["demo.ewc@champion"]).versions == ("demo.ewc@1", "demo.ewc@2")
    assert set(b.transfer.pull("hub").versions) == {"demo.ewc@1", "demo.ewc@2"}
    a.transfer.push("hub")
    b.transfer.pull("hub")
    assert (content(b), audit(b.path)) == (content(a), [])


def test_pushes_of_several_machines_lose_nothing(tmp_path: Path, url: str) -> None:
    stores = [joined(tmp_path / str(number), url) for number in range(3)]
    for number, store in enumerate(stores):
        store.register("line", make_state(number), base=BASE)
        store.register(f"own-{number}", make_state(10 + number), base=BASE)
    for store in stores:
        store.transfer.push("hub")
    for store in stores:
        arrived = store.transfer.pull("hub")
        assert len(arrived.renamed) == 2
        assert len(store.versions()) == 6
        assert store.resolve("line") == "line@1"
        assert audit(store.path) == []
    digests = [{version.sha256 for version in store.versions()} for store in stores]
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("count", [4, pytest.param(25, marks=pytest.mark.acceptance)])
def test_eight_processes_push_at_once(processes: ForkServerContext, tmp_path: Path, count: int) -> None:
    hub, told = str(tmp_path / "hub"), tmp_path / "told"
    run_all(processes, push_many, tmp_path, hub, told, processes.Barrier(PROCESSES), count=count)
    sent = acknowledged(told)
    store = joined(tmp_path / "last", hub)
    arrived = store.transfer.pull("hub")
    assert len(arrived.versions) == len(sent) == PROCESSES * count
    assert {version.sha256 for version in store.versions()} == set(sent.values())
    assert audit(store.path) == []


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.acceptance)])
def test_killed_while_pushing(processes: ForkServerContext, tmp_path: Path, kills: int) -> None:
    hub, told = str(tmp_path / "hub"), tmp_path / "told"
    source, reader = joined(tmp_path / "source", hub), joined(tmp_path / "reader", hub)
    for attempt in range(kills):
        process = processes.Process(target=push_for_ever, args=(source.path, told, attempt))
        process.start()
        wait_for_lines(told, len(told.read_text().splitlines()) + 1 if told.exists() else 1)
        time.sleep(0.02 * (attempt % 5))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        reader.transfer.pull("hub")
        assert audit(reader.path) == []
    pushed = {sha256 for ref, sha256 in acknowledged(told).items()}
    assert pushed <= {version.sha256 for version in reader.versions()}
    source.transfer.push("hub")
    reader.transfer.pull("hub")
    assert {v.sha256 for v in reader.versions()} == {v.sha256 for v in source.versions()}


def test_a_push_cut_short_goes_on(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = fill(tmp_path / "a"), joined(tmp_path / "b", url)
    a.transfer.add_remote("hub", url)
    write, left = RemoteFolder.write_blob, iter(range(2))

    def break_off(self: RemoteFolder, sha256: str, data: bytes) -> None:
        if next(left, None) is None:
            raise StoreBusyError("the network is gone")
        write(self, sha256, data)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "write_blob", break_off)
        with pytest.raises(StoreBusyError, match="the network is gone"):
            a.transfer.push("hub")
    assert b.transfer.pull("hub").versions == ()
    assert a.transfer.push("hub").files == 2
    b.transfer.pull("hub")
    assert content(b) == content(a)


def test_a_pull_cut_short_goes_on(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = fill(tmp_path / "a"), joined(tmp_path / "b", url)
    a.transfer.add_remote("hub", url)
    a.transfer.push("hub")
    read, got = RemoteFolder.read_blob, []

    def break_off(self: RemoteFolder, sha256: str) -> bytes:
        if len(got) == 2:
            raise StoreBusyError("the network is gone")
        got.append(sha256)
        return read(self, sha256)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "read_blob", break_off)
        with pytest.raises(StoreBusyError, match="the network is gone"):
            b.transfer.pull("hub")
    assert (b.versions(), audit(b.path)) == ([], [])
    monkeypatch.setattr(RemoteFolder, "read_blob", lambda self, sha: got.append(sha) or read(self, sha))
    b.transfer.pull("hub")
    assert len(got) == len(set(got)) == 4
    assert content(b) == content(a)


def damage_blob(url: str, change: Callable[[bytes], bytes]) -> str:
    folder = RemoteFolder(url)
    sha256 = sorted(folder.blobs())[0]
    folder.write_blob(sha256, change(folder.read_blob(sha256)))
    return sha256


def test_damage_is_refused_on_arrival(tmp_path: Path, url: str) -> None:
    a, b = fill(tmp_path / "a"), joined(tmp_path / "b", url)
    a.transfer.add_remote("hub", url)
    a.transfer.push("hub")
    damage_blob(url, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(
        IntegrityError, match=r"has other bytes in blobs/.* than were pushed; delete that file"
    ):
        b.transfer.pull("hub")
    assert (b.versions(), audit(b.path)) == ([], [])


def test_a_torn_file_is_sent_again(tmp_path: Path, url: str) -> None:
    a, b = fill(tmp_path / "a"), joined(tmp_path / "b", url)
    a.transfer.add_remote("hub", url)
    a.transfer.push("hub")
    damage_blob(url, lambda data: data[:100])
    assert (a.transfer.push("hub").files, a.transfer.push("hub").files) == (1, 0)
    b.transfer.pull("hub")
    assert content(b) == content(a)


def test_lost_files_come_back(tmp_path: Path, url: str) -> None:
    a = fill(tmp_path / "a")
    a.transfer.add_remote("hub", url)
    a.transfer.push("hub", ["demo.ewc"])
    for ref in ("demo.ewc@1", "both@1"):
        a._blobs.path(a.show(ref).sha256).unlink()
    assert a.transfer.pull("hub", dry_run=True).healed == ("demo.ewc@1",)
    assert a.transfer.pull("hub").healed == ("demo.ewc@1",)
    assert audit(a.path) == ["dangling: both@1"]


def test_a_pack_with_other_bytes_is_refused(tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a"), joined(tmp_path / "b", str(tmp_path / "hub"))
    a.transfer.add_remote("hub", str(tmp_path / "hub"))
    a.transfer.push("hub")
    (pack,) = (tmp_path / "hub" / "packs").iterdir()
    pack.write_bytes(pack.read_bytes().replace(b"both", b"bath"))
    with pytest.raises(IntegrityError, match=r"has other bytes in packs/.* than were pushed"):
        b.transfer.pull("hub")


def test_a_folder_that_was_emptied_is_filled_again(tmp_path: Path) -> None:
    a = fill(tmp_path / "a")
    a.transfer.add_remote("hub", str(tmp_path / "hub"))
    a.transfer.push("hub")
    (tmp_path / "hub").rename(tmp_path / "gone")
    again = a.transfer.push("hub")
    assert (len(again.versions), again.files) == (4, 4)


def test_remotes_have_names(tmp_path: Path, store: AdapterStore) -> None:
    store.transfer.add_remote("team", str(tmp_path / "hub"))
    store.transfer.add_remote("backup", "memory://hub")
    assert store.transfer.remotes() == [
        Remote("backup", "memory://hub"),
        Remote("team", str(tmp_path / "hub")),
    ]
    with pytest.raises(SpecError, match=r"there is a remote 'TEAM' in .* already; remove it first"):
        store.transfer.add_remote("TEAM", "memory://x")
    with pytest.raises(UsageError, match="cannot use remote nosuch://x: Protocol not known: nosuch"):
        store.transfer.add_remote("x", "nosuch://x")
    with pytest.raises(SpecError, match=r"remote name '\.\./x' is not usable"):
        store.transfer.add_remote("../x", "memory://x")
    with pytest.raises(NotFoundError, match=r"no remote 'tem' in .*; did you mean 'team'\?; add it: "):
        store.transfer.push("tem")
    assert store.transfer.remove_remote("team").url == str(tmp_path / "hub")
    assert [remote.name for remote in store.transfer.remotes()] == ["backup"]


def test_a_remote_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    store = fill(tmp_path / "a")
    (tmp_path / "file").touch()
    store.transfer.add_remote("hub", str(tmp_path / "file" / "hub"))
    with pytest.raises(
        StoreBusyError, match=r"cannot use .* in remote .*: check the address|Not a directory"
    ):
        store.transfer.push("hub")


def test_a_server_that_is_not_there_is_one_line(
    tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = joined(tmp_path / "a", f"{s3}/x")
    with pytest.raises(
        StoreBusyError, match=r"cannot use packs in remote s3://.*; check the address"
    ) as caught:
        store.transfer.pull("hub")
    assert "\n" not in str(caught.value)
