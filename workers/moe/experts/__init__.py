"""Experts by name. An expert hands out its weights, so that a whole bank is computed at once."""

from workers.moe.experts.bottleneck import Bottleneck
from workers.moe.experts.linear import LinearExpert

EXPERTS = {"bottleneck": Bottleneck, "linear": LinearExpert}

__all__ = ["EXPERTS", "Bottleneck", "LinearExpert"]
