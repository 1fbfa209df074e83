"""Dense stock models as stock mixtures: each feed-forward becomes several experts.

The mixture is of a family with the same attention (``FAMILIES``), so that the result is
a plain model of transformers. Letters: W hidden units of the dense layer, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from workers.contract import InputError, derive_seed
from workers.models.huggingface.loading import transformers
from workers.moe.experts.feed_forward import FeedForward
from workers.moe.seeding import seeded
from workers.moe.upcycles import Upcycle

FAMILIES = {"llama": "mixtral", "mistral": "mixtral", "qwen3": "qwen3_moe"}
"""Dense family -> family of its mixtures, in which everything but the feed-forward is the same."""
FEED_FORWARD = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
"""What a mixture has experts for."""


def mixture_config(dense: Any, upcycle: Upcycle) -> Any:
    """Config of the mixture that a dense model of this config becomes.

    Raises InputError where no family of mixtures has the dense one's attention.
    """
    family = FAMILIES.get(dense.model_type)
    if family is None:
        raise InputError(
            f"upcycle: no family of mixtures is known for a model of type {dense.model_type!r}; "
            f"known: {', '.join(sorted(FAMILIES))}"
        )
    own = dense.to_dict()
    for name in ("model_type", "architectures", "dtype", "transformers_version", "head_dim"):
        own.pop(name, None)
    width = upcycle.width(dense.intermediate_size)
    head = getattr(dense, "head_dim", None) or dense.hidden_size // dense.num_attention_heads
    more = {
        "head_dim": head,
        "intermediate_size": width,
        "moe_intermediate_size": width,
        "num_experts": upcycle.experts,
        "num_local_experts": upcycle.experts,
        "num_experts_per_tok": upcycle.k,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    own = {"sliding_window": None} | own
    known = transformers().AutoConfig.for_model(family).to_dict()
    return transformers().AutoConfig.for_model(
        family, **{name: value for name, value in (own | more).items() if name in known}
    )


def upcycled(
    dense: nn.Module, upcycle: Upcycle, make: Callable[[Any], nn.Module], seed: int
) -> nn.Module:
    """The mixture of a dense model; ``make`` builds a stock model from a config.

    Everything but the feed-forward is taken over as it is.
    """
    source: Any = dense
    mixture: Any = make(mixture_config(source.config, upcycle))
    kept = source.state_dict()
    state = {name: kept[name] for name in mixture.state_dict() if name in kept}
    absent, _ = mixture.load_state_dict(state, strict=False)
    own = ("mlp.gate.weight", "experts.gate_up_proj", "experts.down_proj")
    strange = [name for name in absent if not name.endswith(own)]
    strange += [name for name in kept if name not in state and not name.endswith(FEED_FORWARD)]
    if strange:
        raise InputError(
            f"upcycle: a mixture of type {mixture.config.model_type!r} has no place for "
            f"{strange[0]}"
            + (f" and {len(strange) - 1} more" if len(strange) > 1 else "")
            + " of the dense model; take one without"
        )
    with torch.no_grad():
        for number, (old, new) in enumerate(
            zip(source.model.layers, mixture.model.layers, strict=True)
        ):
            gates_above_values = torch.cat([old.mlp.gate_proj.weight, old.mlp.up_proj.weight])
            maps = ((gates_above_values, None), (old.mlp.down_proj.weight, None))
            with seeded(derive_seed(seed, "upcycle", number)):
                parts = upcycle.parts(FeedForward(maps, "silu", gated=True))
                for expert, part in enumerate(parts):
                    (gate_up_2WD, _), (down_DW, _) = part.maps
                    new.mlp.experts.gate_up_proj[expert].copy_(gate_up_2WD)
                    new.mlp.experts.down_proj[expert].copy_(down_DW)
                new.mlp.gate.weight.copy_(upcycle.rows(gates_above_values.shape[1]))
    return mixture
