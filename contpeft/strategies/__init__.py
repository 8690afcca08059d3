"""Continual-learning methods as recipes of six small parts on one interface; routing lives here."""

from contpeft.strategies.about import About
from contpeft.strategies.answers import (
    ByStatistics,
    Classify,
    Latest,
    MixByArrow,
    MixByStatistics,
    RouteByStatistics,
    TheSurest,
)
from contpeft.strategies.consolidate import (
    FollowStatistics,
    Freeze,
    GatherRidge,
    GatherStatistics,
    KeepFeatures,
    Then,
)
from contpeft.strategies.context import Context, TrainingData
from contpeft.strategies.features import Classifier, FeatureCache, Features, as_classifier, evaluating
from contpeft.strategies.head import Cosine, Linear, Own
from contpeft.strategies.identity import composition_key, state_key
from contpeft.strategies.init import FirstTask, Fresh, FromLast, HeadOnly, NoAdapter, OnTop
from contpeft.strategies.parts import Answers, Consolidate, Head, Init, Penalty, Projection
from contpeft.strategies.penalty import Plus
from contpeft.strategies.predict import Answerer, best_labels, task_choice
from contpeft.strategies.projection import Each, Slow
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes import RECIPES, find_recipe

__all__ = [
    "RECIPES",
    "About",
    "Answerer",
    "Answers",
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
    "FollowStatistics",
    "Freeze",
    "Fresh",
    "FromLast",
    "GatherRidge",
    "GatherStatistics",
    "Head",
    "HeadOnly",
    "Init",
    "KeepFeatures",
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
    "state_key",
    "task_choice",
]
