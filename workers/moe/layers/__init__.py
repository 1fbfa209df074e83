"""Layers by name: what heads and trunks put between two widths."""

from workers.moe.layers.base import LAYERS, Layer, active
from workers.moe.layers.chain import ChainLayer
from workers.moe.layers.linear import LinearLayer
from workers.moe.layers.moe import MoELayer
from workers.moe.layers.residual import ResidualLayer

LAYERS |= {
    "moe": MoELayer,
    "linear": LinearLayer,
    "chain": ChainLayer,
    "residual": ResidualLayer,
}

__all__ = [
    "LAYERS",
    "ChainLayer",
    "Layer",
    "LinearLayer",
    "MoELayer",
    "ResidualLayer",
    "active",
]
