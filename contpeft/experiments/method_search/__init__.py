"""Looking for the adapter method of a task sequence by running it: method, size, targets, learning rate."""

from contpeft.experiments.method_search.outcome import MethodSearchResult, MethodTrial
from contpeft.experiments.method_search.search import search_methods
from contpeft.experiments.method_search.space import MethodSpace
from contpeft.experiments.method_search.variants import Variants

__all__ = ["MethodSearchResult", "MethodSpace", "MethodTrial", "Variants", "search_methods"]
