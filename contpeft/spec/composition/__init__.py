"""How versions answer together, as a value with a digest."""

from contpeft.spec.composition.choices import Parallel, Route, Surest
from contpeft.spec.composition.concat import Concat, Layers, Tokens, View
from contpeft.spec.composition.gated import Gated
from contpeft.spec.composition.mixes import Arrow, Mix
from contpeft.spec.composition.parts import Base, Drop, Fuse, Part, Single, Stack, Sum, average
from contpeft.spec.composition.reading import (
    Choices,
    Composition,
    composition_from_json,
    features_from_json,
)

__all__ = [
    "Arrow",
    "Base",
    "Choices",
    "Composition",
    "Concat",
    "Drop",
    "Fuse",
    "Gated",
    "Layers",
    "Mix",
    "Parallel",
    "Part",
    "Route",
    "Single",
    "Stack",
    "Sum",
    "Surest",
    "Tokens",
    "View",
    "average",
    "composition_from_json",
    "features_from_json",
]
