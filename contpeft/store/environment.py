"""What made a version: the software it ran on."""

from __future__ import annotations

import functools
import platform
from importlib.metadata import PackageNotFoundError, version

import contpeft

__all__ = ["environment"]

_PACKAGES = ("torch", "transformers", "peft", "lightning")


@functools.cache
def environment() -> dict[str, str]:
    """Returns the versions of Python, contpeft and the packages that train, and the platform.

    Read from the installed packages' metadata, so nothing is imported; a package that is not
    installed is left out.
    """
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "contpeft": contpeft.__version__,
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
