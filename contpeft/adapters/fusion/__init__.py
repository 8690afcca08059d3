"""AdapterFusion: attention over what several adapters say."""

from contpeft.adapters.fusion.attachment import FUSION, FusionAttachment, Member, members_of
from contpeft.adapters.fusion.layer import Bottlenecks, FusionLayer, FusionOptions

__all__ = [
    "FUSION",
    "Bottlenecks",
    "FusionAttachment",
    "FusionLayer",
    "FusionOptions",
    "Member",
    "members_of",
]
