"""Durability and errors of the file system."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from contpeft.errors import StoreBusyError

__all__ = ["one_line_errors", "sync_folder", "sync_tree", "whole_folder"]

_SPACE: Final = "free some space and try again"
_RIGHTS: Final = "make the folder and its files readable and writable"
_MENDS: Final = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit on file sizes and try again",
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
}


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` survive a power loss."""
    _sync(folder)


def sync_tree(folder: Path) -> None:
    """Makes everything in ``folder`` survive a power loss."""
    for path, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            _sync(Path(path, name))
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yields a new folder beside ``target`` that takes its name, durably, when the block is through.

    When the block or the renaming fails, nothing is left of it.

    Raises:
        StoreBusyError: if it cannot be made or renamed.
    """
    place = Path(os.path.abspath(target))
    partial = place.parent / f".{place.name}-{secrets.token_hex(4)}"
    try:
        with one_line_errors(target):
            partial.mkdir(parents=True)
        yield partial
        with one_line_errors(target):
            sync_tree(partial)
            os.rename(partial, place)
            sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system says about ``path`` into a :class:`StoreBusyError`."""
    try:
        yield
    except OSError as error:
        mend = _MENDS.get(error.errno or 0, "check the disk and the path")
        raise StoreBusyError(f"cannot use {path}: {error.strerror}; {mend}") from error
