"""AdapterFusion: attention over what several adapters say."""

from contpeft.adapters.fusion.attachment import FUSION, FusionAttachment, Member, members_of
from contpeft.adapters.fusion.layer import Bottlenecks, FusionLayer, FusionOptions
from contpeft.adapters.fusion.members import Kept
from contpeft.adapters.fusion.pruning import most_attended, pruned

__all__ = [
    "FUSION",
    "Bottlenecks",
    "FusionAttachment",
    "FusionLayer",
    "FusionOptions",
    "Kept",
    "Member",
    "members_of",
    "most_attended",
    "pruned",
]
