"""A folder anywhere that several stores share: on another disk, a server, or an object store.

It holds files named by their content and packs named by theirs, and neither ever changes; so any
number of stores may write to it at once without asking each other, and nothing is ever lost.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import fsspec
from fsspec import AbstractFileSystem

from contpeft.digest import bytes_digest
from contpeft.errors import IntegrityError, StoreBusyError, UsageError

__all__ = ["RemoteFolder"]

# Object stores show a file only when all of it has come; everything else has renames.
_ATOMIC: Final = {"abfs", "az", "gcs", "gs", "memory", "s3"}
_PACK: Final = re.compile(r"([0-9a-f]{64})\.json\Z")
_BLOB: Final = re.compile(r"([0-9a-f]{64})\.safetensors\Z")


class RemoteFolder:
    """A shared folder.

    Args:
        url: where it is, in any scheme fsspec knows: a path, ``s3://bucket/prefix``,
            ``sftp://host/path``, ...; credentials come from where that scheme keeps them.

    Raises:
        UsageError: if nothing installed knows the scheme.
    """

    def __init__(self, url: str) -> None:
        """Finds what speaks to it; nothing is read yet."""
        self.url = url
        try:
            self._fs, self._root = fsspec.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise UsageError(f"cannot use remote {url}: {' '.join(str(error).split())}") from error

    @property
    def at_once(self) -> int:
        """How many files it may be asked for at the same time."""
        return 8 if self._fs.async_impl else 1

    def packs(self) -> list[str]:
        """Returns the digest of every pack, sorted."""
        return sorted(self._names("packs", _PACK))

    def blobs(self) -> dict[str, int]:
        """Returns the size of every file by its digest."""
        return self._names("blobs", _BLOB)

    def read_pack(self, sha256: str) -> bytes:
        """Returns the bytes of a pack after checking them."""
        return self._read(f"packs/{sha256}.json", sha256)

    def read_blob(self, sha256: str) -> bytes:
        """Returns the bytes of a file after checking them."""
        return self._read(f"blobs/{sha256[:2]}/{sha256}.safetensors", sha256)

    def write_pack(self, data: bytes) -> str:
        """Writes a pack and returns its digest; the files it needs must be there."""
        sha256 = bytes_digest(data)
        self._write(f"packs/{sha256}.json", data)
        return sha256

    def write_blob(self, sha256: str, data: bytes) -> None:
        """Writes a file, in the place of a torn one if there is one."""
        self._write(f"blobs/{sha256[:2]}/{sha256}.safetensors", data)

    def _names(self, folder: str, pattern: re.Pattern[str]) -> dict[str, int]:
        with self._errors(folder):
            try:
                found: dict[str, Any] = self._fs.find(self._path(folder), detail=True)
            except FileNotFoundError:
                return {}
        matches = ((pattern.match(posixpath.basename(path)), entry) for path, entry in found.items())
        return {match[1]: int(entry["size"]) for match, entry in matches if match}

    def _read(self, name: str, sha256: str) -> bytes:
        with self._errors(name):
            try:
                data: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError as error:
                raise IntegrityError(
                    f"remote {self.url} lacks {name}; push again from a store that has it"
                ) from error
        if bytes_digest(data) != sha256:
            raise IntegrityError(
                f"remote {self.url} has other bytes in {name} than were pushed; "
                "delete that file there and push again from a store that has it"
            )
        return data

    def _write(self, name: str, data: bytes) -> None:
        """Writes a file so that nobody ever finds half of it under its name."""
        path = self._path(name)
        with self._errors(name):
            self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
            if _protocols(self._fs) & _ATOMIC:
                self._fs.pipe_file(path, data)
                return
            temporary = self._path(f"tmp/{uuid.uuid4().hex}")
            self._fs.makedirs(posixpath.dirname(temporary), exist_ok=True)
            with self._fs.open(temporary, "wb") as file:
                file.write(data)
                if "file" in _protocols(self._fs):
                    file.flush()
                    os.fsync(file.fileno())
            self._fs.mv(temporary, path)

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except _connection_errors() as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StoreBusyError(
                f"cannot use {name} in remote {self.url}: {reason}; check the address, the rights "
                "and the network, and do it again: what went through stays"
            ) from error


def _protocols(fs: AbstractFileSystem) -> set[str]:
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def _connection_errors() -> tuple[type[Exception], ...]:
    """Returns what the transports that are loaded raise when something is wrong on the way."""
    others = (("botocore.exceptions", "BotoCoreError"), ("paramiko", "SSHException"))
    loaded = (getattr(sys.modules[module], name) for module, name in others if module in sys.modules)
    return (OSError, *loaded)
