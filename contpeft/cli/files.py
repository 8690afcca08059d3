"""Files that commands write beside what they print: pictures and tensors."""

from __future__ import annotations

from pathlib import Path

from contpeft.errors import UsageError

__all__ = ["check_suffix", "write_file"]


def check_suffix(path: Path | None, suffix: str, what: str) -> None:
    """Checks that a file is called what it will be.

    Args:
        path: the file; None if none was asked for.
        suffix: how its name must end.
        what: will be in it, for the error.

    Raises:
        UsageError: if it is called otherwise.
    """
    if path is not None and path.suffix.lower() != suffix:
        raise UsageError(f"{str(path)!r} is no name for {what}; name a {suffix} file")


def write_file(path: Path, data: bytes) -> None:
    """Writes a file.

    Raises:
        UsageError: if it cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror}; name a file in a folder that is there"
        ) from error
