"""Continual-learning methods as recipes of six small parts on one interface; routing lives here."""

from contpeft.strategies.about import About
from contpeft.strategies.answers import ByStatistics, Latest, RouteByStatistics
from contpeft.strategies.consolidate import (
    AccumulateUpdates,
    Fisher,
    Freeze,
    GatherStatistics,
    MeasureOverlap,
    OutputSensitivity,
    PathIntegral,
    Then,
)
from contpeft.strategies.context import Context, TrainingData
from contpeft.strategies.features import Classifier, FeatureCache, Features, as_classifier, evaluating
from contpeft.strategies.head import Cosine, Linear, Own
from contpeft.strategies.identity import composition_key, state_key
from contpeft.strategies.init import Fresh, FromLast, HeadOnly, NoAdapter, OnTop, ScaledDirections
from contpeft.strategies.parts import Answers, Consolidate, Head, Init, Penalty, Projection
from contpeft.strategies.penalty import (
    Anchored,
    AnchoredUpdate,
    Distilled,
    OrthogonalRows,
    Plus,
    SparseUpdate,
    UsedEntries,
)
from contpeft.strategies.predict import Answerer, best_labels, task_choice
from contpeft.strategies.projection import Each, Slow, SumPath
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes import RECIPES, find_recipe

__all__ = [
    "RECIPES",
    "About",
    "AccumulateUpdates",
    "Anchored",
    "AnchoredUpdate",
    "Answerer",
    "Answers",
    "ByStatistics",
    "Classifier",
    "Consolidate",
    "Context",
    "Cosine",
    "Distilled",
    "Each",
    "FeatureCache",
    "Features",
    "Fisher",
    "Freeze",
    "Fresh",
    "FromLast",
    "GatherStatistics",
    "Head",
    "HeadOnly",
    "Init",
    "Latest",
    "Linear",
    "MeasureOverlap",
    "NoAdapter",
    "OnTop",
    "OrthogonalRows",
    "OutputSensitivity",
    "Own",
    "PathIntegral",
    "Penalty",
    "Plus",
    "Projection",
    "Recipe",
    "RouteByStatistics",
    "ScaledDirections",
    "Slow",
    "SparseUpdate",
    "SumPath",
    "Then",
    "TrainingData",
    "UsedEntries",
    "as_classifier",
    "best_labels",
    "composition_key",
    "evaluating",
    "find_recipe",
    "state_key",
    "task_choice",
]
