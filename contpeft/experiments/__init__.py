"""Task streams, the sequence runner and its reports."""

from contpeft.experiments.config import Experiment, StreamConfig, load_experiment, parse_experiment
from contpeft.experiments.modules import ImageClassifier, TextClassifier
from contpeft.experiments.progress import Observer, Progress
from contpeft.experiments.runner import run_experiment
from contpeft.experiments.streams import split_by_class, split_by_column
from contpeft.experiments.tasks import Examples, TaskData, TaskStream

__all__ = [
    "Examples",
    "Experiment",
    "ImageClassifier",
    "Observer",
    "Progress",
    "StreamConfig",
    "TaskData",
    "TaskStream",
    "TextClassifier",
    "load_experiment",
    "parse_experiment",
    "run_experiment",
    "split_by_class",
    "split_by_column",
]
