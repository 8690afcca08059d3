"""Where a bottleneck adapter sits in the layers of a model, family by family.

With ``x`` what a sub-block (attention or feed-forward network, FFN) adds its output to, ``f`` that output
after its dropout, ``LN`` the normalisation after the sum (post-norm; the identity in pre-norm models) and
``u`` the adapter, a layer computes

- ``houlsby``, ``compacter``: ``LN(f + u(f) + x)``, after the attention and after the FFN (Houlsby et al.,
  2019, section 2.1; Mahabadi et al., 2021, section 4);
- ``pfeiffer``: ``LN(f + u(LN(f + x)) + x)``, after the FFN (Pfeiffer et al., 2021, section 3.1);
- ``parallel``: ``LN(f + u(x) + x)``, beside the FFN (He et al., 2022, section 3.3).

A site is the smallest module through which that can be computed; its flow says how. Where the model has
no module for the dropout after ``f`` alone (ViT), ``f`` is taken before it: the same in eval mode, and in
training where that dropout is 0, as it is unless asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from contpeft.errors import UnsupportedError

__all__ = ["FAMILIES", "PLACEMENTS", "Flow", "Site", "site_of", "site_pattern"]

Flow = Literal["after", "inside_norm", "into_sum", "beside", "around_sum", "beside_sum"]
"""What a site's module is and what is done with it; :mod:`contpeft.adapters.tuners.flows` does it."""

PLACEMENTS: Final = ("houlsby", "ffn", "pfeiffer", "parallel")
"""After both sub-blocks; after the FFN alone; after it with a normalised input; beside it."""


@dataclass(frozen=True)
class Site:
    """A place for an adapter.

    Attributes:
        path: regular expression for the end of the module's path.
        flow: how the adapter is put around that module.
        norm: name, beside that module, of the normalisation that gets ``x``; where the flow needs it.
        output: name, beside that module, of the one that returns ``f``; where the module is a normalisation.
    """

    path: str
    flow: Flow
    norm: str | None = None
    output: str | None = None


def _family(
    types: str, attention: str, ffn: str, pfeiffer: Site, parallel: Site
) -> dict[str, Mapping[str, tuple[Site, ...]]]:
    """Returns the sites of each placement, for each of the families named in ``types``."""
    after = Site(ffn, "after")
    sites = {
        "houlsby": (Site(attention, "after"), after),
        "ffn": (after,),
        "pfeiffer": (pfeiffer,),
        "parallel": (parallel,),
    }
    return dict.fromkeys(types.split(), sites)


def _pre_norm(types: str, attention: str, ffn: str, norm: str) -> dict[str, Mapping[str, tuple[Site, ...]]]:
    return _family(
        types,
        attention,
        ffn,
        pfeiffer=Site(ffn, "around_sum", norm),
        parallel=Site(ffn, "beside_sum", norm),
    )


FAMILIES: Final[Mapping[str, Mapping[str, tuple[Site, ...]]]] = {
    **_family(
        "bert camembert electra roberta xlm-roberta",
        attention=r"layer\.\d+\.attention\.output\.dropout",
        ffn=r"layer\.\d+\.output\.dropout",
        pfeiffer=Site(r"layer\.\d+\.output\.LayerNorm", "inside_norm", output="dropout"),
        parallel=Site(r"layer\.\d+\.output", "into_sum"),
    ),
    **_family(
        "distilbert",
        attention=r"layer\.\d+\.attention\.out_lin",
        ffn=r"layer\.\d+\.ffn",
        pfeiffer=Site(r"layer\.\d+\.output_layer_norm", "inside_norm", output="ffn"),
        parallel=Site(r"layer\.\d+\.ffn", "beside"),
    ),
    # Here f is what is added to x, after the scale of the layer.
    **_pre_norm("dinov2", r"layers?\.\d+\.layer_scale1", r"layers?\.\d+\.layer_scale2", "norm2"),
    **_pre_norm("gpt2", r"h\.\d+\.attn\.resid_dropout", r"h\.\d+\.mlp", "ln_2"),
    **_pre_norm(
        "llama mistral qwen2 qwen3",
        r"layers\.\d+\.self_attn\.o_proj",
        r"layers\.\d+\.mlp",
        "post_attention_layernorm",
    ),
    **_pre_norm(
        "mt5 t5",
        r"block\.\d+\.layer\.0\.dropout",
        r"(encoder\.block\.\d+\.layer\.1|decoder\.block\.\d+\.layer\.2)\.dropout",  # 1 is across
        "layer_norm",
    ),
    **_pre_norm("vit", r"layers\.\d+\.attention\.o_proj", r"layers\.\d+\.mlp", "layernorm_after"),
}
"""The sites in each family of models, by its ``config.model_type``, then by placement."""


def site_pattern(method: str, placement: str, model: Any) -> str:
    """Returns a regular expression for the whole paths of the modules an adapter is put around.

    Args:
        method: what the adapter is called in messages.
        placement: one of :data:`PLACEMENTS`.
        model: the transformers model.

    Raises:
        UnsupportedError: if the model is of a family whose layers are not known here.
    """
    return _pattern("|".join(site.path for site in _sites(method, placement, model)))


def site_of(method: str, placement: str, model: Any, path: str) -> Site:
    """Returns the site at the path of a module.

    Args:
        method: what the adapter is called in messages.
        placement: one of :data:`PLACEMENTS`.
        model: the transformers model.
        path: dotted, of the module.

    Raises:
        UnsupportedError: if an adapter of this placement has none there.
    """
    for site in _sites(method, placement, model):
        if re.fullmatch(_pattern(site.path), path):
            return site
    raise UnsupportedError(
        f"{path!r} is no place for an adapter of method {method!r}; leave targets out, or choose from those "
        f"that match {site_pattern(method, placement, model)!r}"
    )


def _pattern(path: str) -> str:
    return rf"(.*\.)?({path})"


def _sites(method: str, placement: str, model: Any) -> tuple[Site, ...]:
    kind = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    if kind not in FAMILIES:
        raise UnsupportedError(
            f"method {method!r} has no known place in the layers of a {kind} model; "
            f"it has in: {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind][placement]
