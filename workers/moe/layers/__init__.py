"""Layers by name: what heads and trunks put between two widths."""

from workers.moe.layers.base import LAYERS, Layer, active
from workers.moe.layers.chain import ChainLayer
from workers.moe.layers.linear import LinearLayer
from workers.moe.layers.lora_stages import LoRAStagesLayer
from workers.moe.layers.moe import MoELayer
from workers.moe.layers.recurrent_or_static import RecurrentOrStaticLayer
from workers.moe.layers.residual import ResidualLayer

LAYERS |= {
    "moe": MoELayer,
    "linear": LinearLayer,
    "chain": ChainLayer,
    "residual": ResidualLayer,
    "lora_stages": LoRAStagesLayer,
    "recurrent_or_static": RecurrentOrStaticLayer,
}

__all__ = [
    "LAYERS",
    "ChainLayer",
    "Layer",
    "LinearLayer",
    "LoRAStagesLayer",
    "MoELayer",
    "RecurrentOrStaticLayer",
    "ResidualLayer",
    "active",
]
