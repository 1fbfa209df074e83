"""Routers that must know each token's domain: what they need of a lane, and where they get it."""

from __future__ import annotations

from torch import Tensor

from workers.contract import InputError, LaneSettings
from workers.moe.routers.base import RouterContext
from workers.tables import Problem


def domains_of_tokens(context: RouterContext) -> Tensor:
    """Domain of each token, int64 [T]. Raises InputError where nobody told it."""
    if context.domain_T is None:
        raise InputError(
            "a router that needs each token's domain was not told it: outside training, evaluation "
            "and edits nobody knows it here; use a router that goes by features alone"
        )
    return context.domain_T


def domain_problems(lane: LaneSettings, oracle: bool) -> list[Problem]:
    """Why a lane cannot tell its router every token's domain; ``oracle``: it may be told what the
    stream hides."""
    if lane.acts:
        allowed = (
            "runners and evaluators that play do not tell the model its task: use router linear"
        )
        return [Problem("kind", "the lane learns from what its own model does", allowed)]
    if lane.mixes:
        allowed = "nobody can tell its samples' domains: use method finetune or joint"
        method = lane.sections["method"].kind
        return [Problem("kind", f"method {method!r} mixes domains", allowed)]
    if len(lane.domains) < 2:
        found = f"all tasks are of domain {lane.domains[0]!r}"
        return [Problem("kind", found, "the router tells domains apart: give a stream of several")]
    if not (lane.domain_given or oracle):
        allowed = (
            "set stream.domain_given = true (task-incremental), or oracle = true in the router for "
            "an upper bound that is told what the stream hides"
        )
        return [Problem("kind", "the stream hides a sample's domain at test time", allowed)]
    return []


def too_few(experts: int | None, needed: int, what: str) -> list[Problem]:
    """The problem of a lane that ends with fewer experts than a router needs (None = unknown)."""
    if experts is None or experts >= needed:
        return []
    allowed = f"{what}: at least {needed}, at the start or by growth"
    return [Problem("kind", f"the model ends with {experts} experts", allowed)]
