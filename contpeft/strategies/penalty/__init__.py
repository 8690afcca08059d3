"""Parts: a term added to the loss of every batch."""

from contpeft.strategies.penalty.plus import Plus

__all__ = ["Plus"]
