"""How versions answer together, as a value with a digest."""

from contpeft.spec.composition.choices import Parallel, Route
from contpeft.spec.composition.parts import Base, Drop, Fuse, Part, Single, Stack, Sum, average
from contpeft.spec.composition.reading import Composition, composition_from_json

__all__ = [
    "Base",
    "Composition",
    "Drop",
    "Fuse",
    "Parallel",
    "Part",
    "Route",
    "Single",
    "Stack",
    "Sum",
    "average",
    "composition_from_json",
]
