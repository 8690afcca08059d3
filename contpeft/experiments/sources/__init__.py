"""Where labelled data comes from: packages, local files, Hugging Face data sets.

A source is a small frozen value whose fields are its options, so that a YAML file can name its class
(``class_path``) and set them (``init_args``).
"""

from __future__ import annotations

from contpeft.experiments.sources.base import LabelledData, Row, Source
from contpeft.experiments.sources.digits import Digits
from contpeft.experiments.sources.fashion import FashionMnist
from contpeft.experiments.sources.hub import HubDataset
from contpeft.experiments.sources.local import LocalFolder
from contpeft.experiments.sources.newsgroups import Newsgroups
from contpeft.experiments.sources.vader import Vader
from contpeft.experiments.sources.wordnet import WordNetGlosses

__all__ = [
    "Digits",
    "FashionMnist",
    "HubDataset",
    "LabelledData",
    "LocalFolder",
    "Newsgroups",
    "Row",
    "Source",
    "Vader",
    "WordNetGlosses",
]
