"""Heads by name: features -> outputs. Those with a growable part follow an edit's experts."""

from workers.models.heads.big_moe import BigMoE
from workers.models.heads.expanding_mlp import ExpandingMLP
from workers.models.heads.mlp import MLP
from workers.models.heads.moe import MoEHead
from workers.models.heads.moe_blocks import MoEBlocks
from workers.models.heads.plasticity_injection import PlasticityInjection
from workers.models.heads.progressive_net import ProgressiveNet

HEADS: dict[str, type] = {
    "moe": MoEHead,
    "moe_blocks": MoEBlocks,
    "big_moe": BigMoE,
    "mlp": MLP,
    "expanding_mlp": ExpandingMLP,
    "plasticity_injection": PlasticityInjection,
    "progressive_net": ProgressiveNet,
}

__all__ = [
    "HEADS",
    "MLP",
    "BigMoE",
    "ExpandingMLP",
    "MoEBlocks",
    "MoEHead",
    "PlasticityInjection",
    "ProgressiveNet",
]
