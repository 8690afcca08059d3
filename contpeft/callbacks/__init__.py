"""Lightning callbacks: thin, they connect the hooks of a fit to the other rooms."""

from contpeft.callbacks.checkpoint import AdapterCheckpoint
from contpeft.callbacks.continual import ContinualAdapter
from contpeft.callbacks.fusion import FusionStage
from contpeft.callbacks.monitor import ForgettingMonitor

__all__ = ["AdapterCheckpoint", "ContinualAdapter", "ForgettingMonitor", "FusionStage"]
