"""The format of AdapterHub's folders: their names, configurations, tensors, and ours; no file is touched.

Bottleneck adapters (``seq_bn``, ``double_seq_bn``, ``par_bn``), LoRA, fusions and classification heads go
both ways without a bit lost; everything else is refused by name.
"""

from contpeft.adapters.adapterhub.fusion import fusion_from_hub, fusion_to_hub
from contpeft.adapters.adapterhub.heads import head_from_hub, head_to_hub
from contpeft.adapters.adapterhub.legacy import renewed, renewed_names
from contpeft.adapters.adapterhub.names import FAMILIES, check_name, prefix_of
from contpeft.adapters.adapterhub.places import module_prefix
from contpeft.adapters.adapterhub.reading import adapter_from_hub
from contpeft.adapters.adapterhub.told import VERSION, Told
from contpeft.adapters.adapterhub.writing import METHODS, Target, adapter_to_hub, model_type_of

__all__ = [
    "FAMILIES",
    "METHODS",
    "VERSION",
    "Target",
    "Told",
    "adapter_from_hub",
    "adapter_to_hub",
    "check_name",
    "fusion_from_hub",
    "fusion_to_hub",
    "head_from_hub",
    "head_to_hub",
    "model_type_of",
    "module_prefix",
    "prefix_of",
    "renewed",
    "renewed_names",
]
