"""AdapterFusion: attention over what several adapters say."""

from contpeft.adapters.fusion.layer import Bottlenecks, FusionLayer, FusionOptions

__all__ = ["Bottlenecks", "FusionLayer", "FusionOptions"]
