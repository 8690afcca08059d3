"""Parts: a term added to the loss of every batch."""

from contpeft.strategies.penalty.anchored import Anchored
from contpeft.strategies.penalty.anchored_update import AnchoredUpdate
from contpeft.strategies.penalty.dark_replay import DarkReplay
from contpeft.strategies.penalty.distilled import Distilled
from contpeft.strategies.penalty.near_identity_values import NearIdentityValues
from contpeft.strategies.penalty.near_keys import NearKeys
from contpeft.strategies.penalty.orthogonal_components import OrthogonalComponents
from contpeft.strategies.penalty.orthogonal_routing import OrthogonalRouting
from contpeft.strategies.penalty.orthogonal_rows import OrthogonalRows
from contpeft.strategies.penalty.plus import Plus
from contpeft.strategies.penalty.replay import Replay
from contpeft.strategies.penalty.routed_as_before import RoutedAsBefore
from contpeft.strategies.penalty.sparse_update import SparseUpdate
from contpeft.strategies.penalty.used_entries import UsedEntries

__all__ = [
    "Anchored",
    "AnchoredUpdate",
    "DarkReplay",
    "Distilled",
    "NearIdentityValues",
    "NearKeys",
    "OrthogonalComponents",
    "OrthogonalRouting",
    "OrthogonalRows",
    "Plus",
    "Replay",
    "RoutedAsBefore",
    "SparseUpdate",
    "UsedEntries",
]
