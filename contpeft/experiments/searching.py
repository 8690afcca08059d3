"""What searches have in common: the optimiser they ask."""

from __future__ import annotations

import importlib
from typing import Any

from contpeft.errors import NotFoundError

__all__ = ["import_optuna"]


def import_optuna(purpose: str) -> Any:
    """Returns optuna, which tells no more than warnings.

    Raises:
        NotFoundError: if it is not installed, naming what it was needed for.
    """
    try:
        optuna = importlib.import_module("optuna")
    except ModuleNotFoundError as error:
        raise NotFoundError(f"{purpose} needs optuna ({error}); pip install 'contpeft[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
