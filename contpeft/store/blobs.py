"""Immutable files named by their content.

A blob becomes visible under its name only when it is whole and on the disk: it is written to a file
of its own in ``tmp/``, synced, renamed, and the folders that name it are synced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from contpeft.errors import IntegrityError
from contpeft.store.disk import one_line_errors, sync_folder

__all__ = ["Blobs"]

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_SUFFIX = ".safetensors"
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class Blobs:
    """The files of a store.

    Args:
        root: the store's folder; ``blobs/``, ``tmp/`` and ``quarantine/`` are made in it.
    """

    def __init__(self, root: Path) -> None:
        """Remembers the folders; touches nothing."""
        self._blobs = root / "blobs"
        self._tmp = root / "tmp"
        self._quarantine = root / "quarantine"
        self._durable: set[Path] = set()

    def make_folders(self) -> None:
        """Makes the folders that are not there yet."""
        for folder in (self._blobs, self._tmp, self._quarantine):
            with one_line_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Returns where the blob with this digest is, or would be."""
        if not _SHA256.match(sha256):
            raise IntegrityError(f"{sha256!r} is no SHA-256 digest; the catalogue is damaged")
        return self._blobs / sha256[:2] / f"{sha256}{_SUFFIX}"

    def digests(self) -> Iterator[str]:
        """Yields the digest of every file that is named as a blob."""
        for path in self._blobs.glob(f"*/*{_SUFFIX}"):
            if _SHA256.match(path.stem) and path.parent.name == path.stem[:2]:
                yield path.stem

    def temporary(self) -> Iterator[Path]:
        """Yields the files that are being written, or were when their writer was killed."""
        yield from self._tmp.iterdir()

    def quarantined(self) -> Iterator[Path]:
        """Yields the damaged files that were set aside."""
        yield from self._quarantine.iterdir()

    def size(self, paths: Iterable[Path]) -> int:
        """Returns the size of files together; one that is gone has none."""
        return sum(file.st_size for file in map(self.stat, paths) if file)

    def stat(self, path: Path) -> os.stat_result | None:
        """Returns size and times of a file, or None when there is none."""
        with one_line_errors(path):
            try:
                return path.stat()
            except FileNotFoundError:
                return None

    def present(self, sha256: str, size: int) -> bool:
        """Returns whether a file of that size has that name: cheap, and says nothing about its bytes."""
        file = self.stat(self.path(sha256))
        return file is not None and file.st_size == size

    def intact(self, sha256: str, size: int) -> bool:
        """Returns whether the blob is there and its bytes hash to its name."""
        path = self.path(sha256)
        with one_line_errors(path):
            try:
                with path.open("rb") as file:
                    return (
                        os.fstat(file.fileno()).st_size == size
                        and hashlib.file_digest(file, "sha256").hexdigest() == sha256
                    )
            except FileNotFoundError:  # also one that is collected at this moment
                return False

    def link(self, sha256: str, other: Blobs) -> bool:
        """Gives a blob to another store too; a missing one is left out.

        Returns:
            Whether it is a hard link; a file system that cannot link across gets a copy.
        """
        source, target = self.path(sha256), other.path(sha256)
        with one_line_errors(target):
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                try:
                    os.link(source, target)
                except OSError as error:
                    if error.errno not in _NO_LINKS:
                        raise
                    shutil.copy2(source, target)
                    return False
                return True
        return False

    def quarantine(self, sha256: str) -> Path | None:
        """Takes a blob out of use and returns where it went, or None when it is gone."""
        path, place = self.path(sha256), self._place_in_quarantine(sha256)
        with one_line_errors(path):
            try:
                os.replace(path, place)
            except FileNotFoundError:
                return None
            sync_folder(self._quarantine)
            sync_folder(path.parent)
        return place

    def delete(self, paths: Iterable[Path]) -> None:
        """Deletes files; one that is gone already is no error."""
        for path in paths:
            with one_line_errors(path):
                path.unlink(missing_ok=True)

    def read(self, sha256: str, what: str) -> bytes:
        """Returns the bytes of a blob after checking that they are the ones that were stored.

        Args:
            sha256: the blob.
            what: whose bytes they are, for messages.

        Raises:
            IntegrityError: if it is missing, cannot be read, or has other bytes.
        """
        path = self.path(sha256)
        with _damage_told(path, what):
            data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _damaged(path, what)
        return data

    def checked(self, sha256: str, what: str) -> Path:
        """Returns where a blob is after checking its bytes as a stream; raises what :meth:`read` raises."""
        path = self.path(sha256)
        with _damage_told(path, what), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise _damaged(path, what)
        return path

    def put(self, data: bytes, sha256: str) -> Path | None:
        """Makes the blob durable under its name, replacing a damaged one.

        Args:
            data: the bytes.
            sha256: their digest.

        Should a collector take the file at the same moment, it may be gone again: ask
        :meth:`present` with the write lock in hand.

        Returns:
            Where a copy of a damaged predecessor went, or None when there was none.

        Raises:
            StoreBusyError: if the disk is full, read-only or failing.
        """
        path = self.path(sha256)
        with one_line_errors(path):
            self._make_durable(path.parent)
            damaged = None
            if not self.intact(sha256, len(data)):
                damaged = self._copy_to_quarantine(path)
                self._write(data, path)
            # Also for a blob that was there: whoever renamed it may not have come this far yet.
            sync_folder(path.parent)
        return damaged

    def _make_durable(self, folder: Path) -> None:
        """Makes a folder of blobs, and its name survive a power loss."""
        with suppress(FileExistsError):
            folder.mkdir()
            self._durable.discard(folder)
        if folder not in self._durable:
            # Also one that was there: its maker may not have come this far. All others with it.
            there = set(self._blobs.iterdir())
            sync_folder(self._blobs)
            self._durable = there

    def _write(self, data: bytes, path: Path) -> None:
        temporary = self._tmp / f"{os.getpid()}-{secrets.token_hex(8)}"
        # Born read-only: readable by whom the umask allows, and nobody writes it a second time.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # Collected before it got its name: the caller finds no blob and comes again.
            with suppress(FileNotFoundError):
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _copy_to_quarantine(self, path: Path) -> Path | None:
        # Copied, not moved: readers of other versions never find the name empty.
        copy = self._place_in_quarantine(path.stem)
        try:
            shutil.copyfile(path, copy)
        except FileNotFoundError:
            return None
        return copy

    def _place_in_quarantine(self, sha256: str) -> Path:
        return self._quarantine / f"{sha256}-{secrets.token_hex(8)}{_SUFFIX}"


@contextmanager
def _damage_told(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise IntegrityError(
            f"{what} cannot be read: {path}: {error.strerror}; register it again or restore a backup"
        ) from error


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"{what} is damaged: {path} has other bytes than were stored; register it again or restore a backup"
    )
