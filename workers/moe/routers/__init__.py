"""Routers by name: token features -> one logit per expert."""

from workers.moe.routers.linear import LinearRouter

ROUTERS = {"linear": LinearRouter}

__all__ = ["ROUTERS", "LinearRouter"]
