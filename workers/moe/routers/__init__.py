"""Routers by name: token features -> one logit per expert."""

from workers.moe.routers.adaptive import AdaptiveRouter
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.linear import LinearRouter
from workers.moe.routers.noisy import NoisyRouter

ROUTERS: dict[str, type] = {
    "linear": LinearRouter,
    "adaptive": AdaptiveRouter,
    "noisy": NoisyRouter,
}

__all__ = ["ROUTERS", "AdaptiveRouter", "LinearRouter", "NoisyRouter", "Router", "RouterContext"]
