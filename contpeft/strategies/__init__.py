"""Continual-learning methods as recipes of six small parts on one interface; routing lives here."""

from contpeft.strategies.about import About
from contpeft.strategies.answers import (
    BeforeAndAfter,
    ByStatistics,
    Classify,
    Latest,
    MixByArrow,
    MixByStatistics,
    RouteByStatistics,
    TheSurest,
)
from contpeft.strategies.consolidate import (
    AlignClassifier,
    Freeze,
    GatherRidge,
    GatherStatistics,
    GatherSubspaces,
    KeepFeatures,
    KeepThresholds,
    Then,
)
from contpeft.strategies.context import Context, TrainingData
from contpeft.strategies.features import Classifier, FeatureCache, Features, as_classifier, evaluating
from contpeft.strategies.head import Cosine, Linear, Own
from contpeft.strategies.identity import composition_key, recipe_digest, state_key
from contpeft.strategies.init import FirstTask, Fresh, FromLast, HeadOnly, NoAdapter, OnTop
from contpeft.strategies.parts import Answers, Consolidate, Head, Init, Penalty, Projection
from contpeft.strategies.penalty import Plus
from contpeft.strategies.predict import Answerer, best_labels, task_choice
from contpeft.strategies.projection import Each, Slow
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes import RECIPES, find_recipe
from contpeft.strategies.rejection import Judged, Rejection

__all__ = [
    "RECIPES",
    "About",
    "AlignClassifier",
    "Answerer",
    "Answers",
    "BeforeAndAfter",
    "ByStatistics",
    "Classifier",
    "Classify",
    "Consolidate",
    "Context",
    "Cosine",
    "Each",
    "FeatureCache",
    "Features",
    "FirstTask",
    "Freeze",
    "Fresh",
    "FromLast",
    "GatherRidge",
    "GatherStatistics",
    "GatherSubspaces",
    "Head",
    "HeadOnly",
    "Init",
    "Judged",
    "KeepFeatures",
    "KeepThresholds",
    "Latest",
    "Linear",
    "MixByArrow",
    "MixByStatistics",
    "NoAdapter",
    "OnTop",
    "Own",
    "Penalty",
    "Plus",
    "Projection",
    "Recipe",
    "Rejection",
    "RouteByStatistics",
    "Slow",
    "TheSurest",
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
