"""A bundle: versions with all that makes them what they are, in one tar file.

The first member is the pack; then come the files, each once. Equal content gives equal bytes.
Reading trusts nothing: what the pack does not list is refused, and so is what is not what it lists.
"""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from contpeft.errors import IntegrityError, UsageError
from contpeft.store.blobs import Blobs
from contpeft.store.disk import one_line_errors, sync_folder
from contpeft.store.transfer.records import Pack, VersionRecord

__all__ = ["Bundle", "read", "write"]

_PACK: Final = "pack.json"
_MAX_PACK_BYTES: Final = 1 << 28


class Bundle:
    """A bundle that is open for reading.

    Attributes:
        pack: what it holds.
    """

    def __init__(self, archive: tarfile.TarFile, path: Path) -> None:
        """Checks every member's name, kind and size before any is read."""
        self._archive, self._path = archive, path
        first = archive.next()
        if first is None or first.name != _PACK:
            raise IntegrityError(f"{path} is no bundle: it does not begin with {_PACK}")
        self._check(first, most=_MAX_PACK_BYTES)
        self.pack = Pack.parse(self._bytes(first), str(path))
        self._members = {first.name: first}
        sizes = {_name(version.sha256): version.bytes for version in self.pack.versions}
        for member in iter(archive.next, None):
            if member.name in self._members or sizes.get(member.name) != member.size:
                raise IntegrityError(
                    f"{path} holds {member.name!r} ({member.size} bytes), which is not what its {_PACK} "
                    "lists; refused"
                )
            self._check(member, most=member.size)
            self._members[member.name] = member
        for name in sizes.keys() - self._members.keys():
            raise IntegrityError(f"{path} lacks {name}, which its {_PACK} lists; get it again")

    def read(self, sha256: str) -> bytes:
        """Returns the bytes of a file, not yet checked."""
        return self._bytes(self._members[_name(sha256)])

    def _check(self, member: tarfile.TarInfo, most: int) -> None:
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise IntegrityError(f"{self._path} holds {member.name!r}, which is no plain file; refused")
        if member.size > most:
            raise IntegrityError(f"{self._path} holds {member.name!r} of {member.size} bytes; refused")

    def _bytes(self, member: tarfile.TarInfo) -> bytes:
        file = self._archive.extractfile(member)
        assert file is not None
        data = file.read()
        if len(data) != member.size:
            raise IntegrityError(f"{self._path} ends in the middle of {member.name!r}; get it again")
        return data


@contextmanager
def read(path: Path) -> Iterator[Bundle]:
    """Yields the bundle in a file.

    Raises:
        UsageError: if there is no such file.
        IntegrityError: if it is no bundle, or not wholly there.
    """
    if not path.is_file():
        raise UsageError(f"{path} is no file; name a bundle that contpeft store bundle wrote")
    try:
        with one_line_errors(path), tarfile.open(path, "r:") as archive:
            yield Bundle(archive, path)
    except tarfile.TarError as error:
        raise IntegrityError(f"{path} is no bundle, or not all of it: {error}; get it again") from error


def write(path: Path, pack: Pack, blobs: Blobs) -> int:
    """Writes a bundle, whole or not at all, and returns its size in bytes.

    Raises:
        UsageError: if there is something at ``path``.
        IntegrityError: if a file is missing or not what was stored.
    """
    if path.exists():
        raise UsageError(f"{path} exists; name a file that does not")
    partial = path.absolute().with_name(f".{path.name}-{secrets.token_hex(4)}")
    with one_line_errors(path):
        try:
            with partial.open("xb") as file:
                _write(file, pack, blobs)
                file.flush()
                os.fsync(file.fileno())
            os.rename(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.absolute().parent)
    return path.stat().st_size


def _write(file: IO[bytes], pack: Pack, blobs: Blobs) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, _PACK, pack.to_bytes())
        for version in _each_file_once(pack.versions):
            _add(archive, _name(version.sha256), blobs.read(version.sha256, f"version {version.ref!r}"))


def _each_file_once(versions: Iterable[VersionRecord]) -> Iterable[VersionRecord]:
    return {version.sha256: version for version in versions}.values()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o444
    archive.addfile(member, io.BytesIO(data))


def _name(sha256: str) -> str:
    return f"blobs/{sha256}.safetensors"
