"""Experts by name: any module; those with a kernel are computed together."""

from workers.moe.experts.base import Expert
from workers.moe.experts.bottleneck import Bottleneck
from workers.moe.experts.gated import GatedExpert
from workers.moe.experts.linear import LinearExpert
from workers.moe.experts.mlp import MLPExpert

EXPERTS: dict[str, type] = {
    "bottleneck": Bottleneck,
    "gated": GatedExpert,
    "linear": LinearExpert,
    "mlp": MLPExpert,
}

__all__ = ["EXPERTS", "Bottleneck", "Expert", "GatedExpert", "LinearExpert", "MLPExpert"]
