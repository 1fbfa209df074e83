"""Routers by name: token features -> one logit per expert."""

from workers.moe.routers.adaptive import AdaptiveRouter
from workers.moe.routers.base import Router, RouterContext
from workers.moe.routers.linear import LinearRouter

ROUTERS: dict[str, type] = {"linear": LinearRouter, "adaptive": AdaptiveRouter}

__all__ = ["ROUTERS", "AdaptiveRouter", "LinearRouter", "Router", "RouterContext"]
