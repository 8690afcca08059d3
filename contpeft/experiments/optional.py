"""Libraries that only some of what experiments do needs."""

from __future__ import annotations

import importlib
from typing import Any

from contpeft.errors import NotFoundError

__all__ = ["import_optional", "import_optuna"]


def import_optional(module: str, purpose: str, distribution: str | None = None, extra: str = "data") -> Any:
    """Returns an imported module that is not there in every installation.

    Args:
        module: its dotted name.
        purpose: what needs it, for the error.
        distribution: what it is installed as; the module's own name when None.
        extra: of contpeft, which brings it.

    Raises:
        NotFoundError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f"{purpose} needs {distribution or module} ({error}); pip install 'contpeft[{extra}]'"
        ) from error


def import_optuna(purpose: str) -> Any:
    """Returns optuna, which tells no more than warnings; raises what :func:`import_optional` does."""
    optuna = import_optional("optuna", purpose, extra="search")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
