"""Continual-learning methods as recipes of six small parts on one interface; routing lives here."""

from contpeft.strategies.about import About
from contpeft.strategies.answers import ByStatistics, Latest, Merged, RouteByStatistics
from contpeft.strategies.consolidate import (
    BestMerge,
    Freeze,
    GatherStatistics,
    KeepRows,
    MergeAfter,
    MergeEma,
    MergeFactors,
    MergeOn,
    ProtectInputs,
    RepairMerge,
    Then,
)
from contpeft.strategies.context import Context, TrainingData
from contpeft.strategies.features import Classifier, FeatureCache, Features, as_classifier, evaluating
from contpeft.strategies.head import Cosine, Linear, Own
from contpeft.strategies.identity import composition_key, recipe_digest, state_key
from contpeft.strategies.init import (
    DesignedSubspace,
    Fresh,
    FromLast,
    FromMerged,
    HeadOnly,
    NoAdapter,
    OffProtected,
    OnTop,
    OrthogonalSubspace,
    Orthonormal,
    ResidualGradient,
)
from contpeft.strategies.parts import Answers, Consolidate, Head, Init, Penalty, Projection
from contpeft.strategies.penalty import Plus
from contpeft.strategies.predict import Answerer, best_labels, task_choice
from contpeft.strategies.projection import Each, ProjectUpdate, Slow
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes import RECIPES, find_recipe

__all__ = [
    "RECIPES",
    "About",
    "Answerer",
    "Answers",
    "BestMerge",
    "ByStatistics",
    "Classifier",
    "Consolidate",
    "Context",
    "Cosine",
    "DesignedSubspace",
    "Each",
    "FeatureCache",
    "Features",
    "Freeze",
    "Fresh",
    "FromLast",
    "FromMerged",
    "GatherStatistics",
    "Head",
    "HeadOnly",
    "Init",
    "KeepRows",
    "Latest",
    "Linear",
    "MergeAfter",
    "MergeEma",
    "MergeFactors",
    "MergeOn",
    "Merged",
    "NoAdapter",
    "OffProtected",
    "OnTop",
    "OrthogonalSubspace",
    "Orthonormal",
    "Own",
    "Penalty",
    "Plus",
    "ProjectUpdate",
    "Projection",
    "ProtectInputs",
    "Recipe",
    "RepairMerge",
    "ResidualGradient",
    "RouteByStatistics",
    "Slow",
    "Then",
    "TrainingData",
    "as_classifier",
    "best_labels",
    "composition_key",
    "evaluating",
    "find_recipe",
    "recipe_digest",
    "state_key",
    "task_choice",
]
