"""A model and its adapters: attach, train only that, take the weights out, let one answer.

The only room that imports PEFT.
"""

from contpeft.adapters.attachment import Attachment
from contpeft.adapters.class_rows import competing
from contpeft.adapters.directions import Directions, directions_of, learn_magnitudes
from contpeft.adapters.factors import Factors, LiveFactors, freeze_down, live_factors, stored_factors
from contpeft.adapters.find import find_head, find_model
from contpeft.adapters.fingerprint import tensor_items
from contpeft.adapters.folder import changed_modules, state_from_peft
from contpeft.adapters.frozen_prefix import FrozenPrefix
from contpeft.adapters.heads import ClassHead, CosineHead, LinearHead, build_head, check_head, head_state
from contpeft.adapters.input_moments import InputMoments, input_moments
from contpeft.adapters.layers import layer_features
from contpeft.adapters.methods import check_spec, method_names
from contpeft.adapters.mixed import Mixed
from contpeft.adapters.model import AdaptedModel, AnySpec, Load
from contpeft.adapters.moments import MOMENTS, measure_moments
from contpeft.adapters.prefix_cache import PrefixCache
from contpeft.adapters.pretrained import load_base, module_tree
from contpeft.adapters.principal import linear_weight
from contpeft.adapters.routing_matrix import (
    RoutingMatrix,
    SharedBases,
    check_room_for_bases,
    learn_routing,
    routing_matrices,
    shared_bases,
)
from contpeft.adapters.serving import serving_state
from contpeft.adapters.singular_directions import SingularDirections, singular_directions
from contpeft.adapters.stacked import directions
from contpeft.adapters.statistics import (
    RULES,
    STATISTICS_RULES,
    ClassStatistics,
    Drift,
    KeptFeatures,
    LeftOut,
    RidgeStatistics,
    Rule,
    StatisticsHead,
    SubspacePrototypes,
    TokenStatistics,
)
from contpeft.adapters.tokens import NO_TOKEN, reading_tokens
from contpeft.adapters.tuners.adamix import adamix_consistency
from contpeft.adapters.weight_gradients import weight_gradients

__all__ = [
    "MOMENTS",
    "NO_TOKEN",
    "RULES",
    "STATISTICS_RULES",
    "AdaptedModel",
    "AnySpec",
    "Attachment",
    "ClassHead",
    "ClassStatistics",
    "CosineHead",
    "Directions",
    "Drift",
    "Factors",
    "FrozenPrefix",
    "InputMoments",
    "KeptFeatures",
    "LeftOut",
    "LinearHead",
    "LiveFactors",
    "Load",
    "Mixed",
    "PrefixCache",
    "RidgeStatistics",
    "RoutingMatrix",
    "Rule",
    "SharedBases",
    "SingularDirections",
    "StatisticsHead",
    "SubspacePrototypes",
    "TokenStatistics",
    "adamix_consistency",
    "build_head",
    "changed_modules",
    "check_head",
    "check_room_for_bases",
    "check_spec",
    "competing",
    "directions",
    "directions_of",
    "find_head",
    "find_model",
    "freeze_down",
    "head_state",
    "input_moments",
    "layer_features",
    "learn_magnitudes",
    "learn_routing",
    "linear_weight",
    "live_factors",
    "load_base",
    "measure_moments",
    "method_names",
    "module_tree",
    "reading_tokens",
    "routing_matrices",
    "serving_state",
    "shared_bases",
    "singular_directions",
    "state_from_peft",
    "stored_factors",
    "tensor_items",
    "weight_gradients",
]
