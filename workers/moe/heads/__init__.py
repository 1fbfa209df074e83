"""Heads by name: features -> outputs. Those with a growable part follow an edit's experts."""

from workers.moe.heads.big_moe import BigMoE
from workers.moe.heads.expanding_mlp import ExpandingMLP
from workers.moe.heads.mlp import MLP
from workers.moe.heads.moe import MoEHead
from workers.moe.heads.plasticity_injection import PlasticityInjection
from workers.moe.heads.progressive_net import ProgressiveNet

HEADS: dict[str, type] = {
    "moe": MoEHead,
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
    "MoEHead",
    "PlasticityInjection",
    "ProgressiveNet",
]
