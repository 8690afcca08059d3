"""Continual-learning methods as recipes of six small parts on one interface; routing lives here."""

from contpeft.strategies.about import About
from contpeft.strategies.answers import Averaged, ByStatistics, Latest, RouteByStatistics, WithAverage
from contpeft.strategies.consolidate import FillBuffer, Freeze, GatherStatistics, KeepAverage, Then
from contpeft.strategies.context import Context, TrainingData
from contpeft.strategies.features import Classifier, FeatureCache, Features, as_classifier, evaluating
from contpeft.strategies.head import Cosine, Linear, Own
from contpeft.strategies.identity import composition_key, state_key
from contpeft.strategies.init import Fresh, FromCopy, FromLast, HeadOnly, NoAdapter, OnTop
from contpeft.strategies.parts import Answers, Consolidate, Head, Init, Penalty, Projection
from contpeft.strategies.penalty import DarkReplay, Plus, Replay
from contpeft.strategies.predict import Answerer, best_labels, task_choice
from contpeft.strategies.projection import Calibrate, Each, Follow, Slow
from contpeft.strategies.recipe import Recipe
from contpeft.strategies.recipes import RECIPES, find_recipe

__all__ = [
    "RECIPES",
    "About",
    "Answerer",
    "Answers",
    "Averaged",
    "ByStatistics",
    "Calibrate",
    "Classifier",
    "Consolidate",
    "Context",
    "Cosine",
    "DarkReplay",
    "Each",
    "FeatureCache",
    "Features",
    "FillBuffer",
    "Follow",
    "Freeze",
    "Fresh",
    "FromCopy",
    "FromLast",
    "GatherStatistics",
    "Head",
    "HeadOnly",
    "Init",
    "KeepAverage",
    "Latest",
    "Linear",
    "NoAdapter",
    "OnTop",
    "Own",
    "Penalty",
    "Plus",
    "Projection",
    "Recipe",
    "Replay",
    "RouteByStatistics",
    "Slow",
    "Then",
    "TrainingData",
    "WithAverage",
    "as_classifier",
    "best_labels",
    "composition_key",
    "evaluating",
    "find_recipe",
    "state_key",
    "task_choice",
]
