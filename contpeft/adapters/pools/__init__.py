"""Pools of prefixes, of which each row of a batch gets its own: weights over components that have keys."""

from contpeft.adapters.pools.attachment import PoolAttachment
from contpeft.adapters.pools.options import BankOptions
from contpeft.adapters.pools.states import POOL, fresh_pool, grown_pool

__all__ = ["POOL", "BankOptions", "PoolAttachment", "fresh_pool", "grown_pool"]
