"""One SQLite file, opened so that several processes and threads can rely on it.

Each thread of each process has its own connection. A write is one ``BEGIN IMMEDIATE`` transaction:
a transaction that reads first and asks for the write lock later fails at once when someone else
wrote in between, whatever the time-out, so the lock is always taken first.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contpeft.errors import ContpeftError, IntegrityError, StoreBusyError
from contpeft.store.disk import one_line_errors, sync_folder

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "Database", "sqlite_errors"]

APPLICATION_ID: Final = 0x43504654  # "CPFT"
SCHEMA_VERSION: Final = 3

# Back-off is unfair under load: with eight writers the unluckiest waits several seconds.
BUSY_SECONDS: Final = 60.0

_PRAGMAS: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",  # NORMAL may lose an acknowledged commit at power loss
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA recursive_triggers = ON",  # so that REPLACE cannot get round the append-only triggers
)

_UNAVAILABLE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds its lock; try again when that one is done",
    sqlite3.SQLITE_LOCKED: "another process holds its lock; try again when that one is done",
    sqlite3.SQLITE_FULL: "the disk is full; free some space and try again",
    sqlite3.SQLITE_READONLY: "it is read-only; make the folder and its files writable",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; check that the folder is readable and writable",
    sqlite3.SQLITE_PERM: "access is refused; make the folder and its files writable",
    sqlite3.SQLITE_IOERR: "reading or writing failed; check the free space and the disk",
}


# Connections a forked child found in its parent's stores: never used and never closed, because
# SQLite forbids both.
_inherited: list[sqlite3.Connection] = []


class Database:
    """The catalogue file and its connections.

    Args:
        path: the database file; it and its schema are created by the first connection.
        prepare: makes the folders around it; called before each new connection.
    """

    def __init__(self, path: Path, prepare: Callable[[], None]) -> None:
        """Remembers the path; touches nothing."""
        self.path = path
        self._prepare = prepare
        self._pid = os.getpid()
        self._connections: dict[threading.Thread, sqlite3.Connection] = {}

    def connection(self) -> sqlite3.Connection:
        """Returns the connection of this thread in this process, opening it when there is none."""
        if self._pid != os.getpid():
            _inherited.extend(self._connections.values())
            self._connections, self._pid = {}, os.getpid()
        thread = threading.current_thread()
        if thread not in self._connections:
            self._close_those_of_dead_threads()
            self._prepare()
            self._connections[thread] = self._connect()
        return self._connections[thread]

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection inside a read transaction: all its queries see one moment."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def write(self, *, keep: bool = True) -> Iterator[sqlite3.Connection]:
        """Yields the connection holding the write lock; commits, or rolls back on any exception.

        Args:
            keep: commit; otherwise what was written is taken back.
        """
        with self._transaction("BEGIN IMMEDIATE", keep=keep) as connection:
            yield connection

    def close(self) -> None:
        """Closes every connection this process opened; the next use opens a new one."""
        if self._pid == os.getpid():
            while self._connections:
                self._connections.popitem()[1].close()

    @contextmanager
    def _transaction(self, begin: str, *, keep: bool = True) -> Iterator[sqlite3.Connection]:
        with sqlite_errors(self.path):
            connection = self.connection()
            try:
                connection.execute(begin)
                yield connection
                connection.execute("COMMIT" if keep else "ROLLBACK")
            finally:
                connection.rollback()  # does nothing once the commit went through

    def _close_those_of_dead_threads(self) -> None:
        for thread in list(self._connections):
            if not thread.is_alive():
                self._connections.pop(thread).close()

    def _connect(self) -> sqlite3.Connection:
        # check_same_thread is off only so that close() may close the connections of other threads.
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            self._check_owner(connection)
            for pragma in _PRAGMAS:
                connection.execute(pragma)
            self._use_write_ahead_log(connection)
            if _user_version(connection) < SCHEMA_VERSION:
                self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        """Refuses a database that is not ours, before anything is written to it."""
        connection.execute("BEGIN")  # the three answers must be of one moment
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        version = _user_version(connection)
        connection.execute("COMMIT")
        if owner != APPLICATION_ID and (owner or tables):
            raise IntegrityError(
                f"{self.path} is not an adapter store (application id {owner:#x}); "
                "name another folder, or move that file away"
            )
        if version > SCHEMA_VERSION:
            raise IntegrityError(
                f"{self.path} has schema {version}, written by a newer contpeft; "
                f"this one knows schema {SCHEMA_VERSION}: upgrade contpeft"
            )

    def _use_write_ahead_log(self, connection: sqlite3.Connection) -> None:
        """Switches to write-ahead logging where the file system has it."""
        if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            return
        mode = _switch_journal(connection)
        if mode != "wal":
            warnings.warn(
                f"{self.path} cannot use write-ahead logging here (a network file system?): "
                "let one process write at a time",
                stacklevel=2,
            )

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Brings the schema up to date in one transaction; whoever comes second finds it done."""
        # Imported here: it loads numpy and pandas where they are installed, half a second that
        # a store with an up-to-date schema must not pay.
        from contpeft.store.migrations import apply

        # Durable before the schema is: whoever finds a schema finds the folders after a power loss.
        with one_line_errors(self.path):
            sync_folder(self.path.parent)
            sync_folder(self.path.parent.parent)
        connection.execute("BEGIN IMMEDIATE")
        if _user_version(connection) < SCHEMA_VERSION:
            apply(connection)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")


def _user_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _switch_journal(connection: sqlite3.Connection) -> str:
    # SQLite answers "locked" at once here, without waiting: the time-out is ours to keep.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _primary_code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turns what SQLite says about ``path`` into errors of this package, one line each."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise  # a broken constraint or a misused connection is a mistake in this package
    except sqlite3.Error as error:
        raise _translate(error, path) from error
    except UnicodeDecodeError as error:  # in a value, or in what SQLite says about a damaged schema
        raise IntegrityError(
            f"{path} is damaged (text that is not UTF-8); restore it from a backup"
        ) from error


def _translate(error: sqlite3.Error, path: Path) -> ContpeftError:
    reason = _UNAVAILABLE.get(_primary_code(error))
    if reason:
        return StoreBusyError(f"cannot use {path} ({error}): {reason}")
    return IntegrityError(f"{path} is damaged ({error}); restore it from a backup")
