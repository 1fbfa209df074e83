"""What lanes ask of nodes, and whether the cluster's nodes can hold their workers. Knows no Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.config.run import LaneConfig, Resources, RunConfig
from workers.contract import InputError


def needs(resources: Resources) -> dict[str, float]:
    """What one worker of a lane asks of a node, in Ray's names; zeros left out."""
    wanted = {"CPU": resources.cpus, "GPU": resources.gpus, **resources.custom}
    return {name: amount for name, amount in wanted.items() if amount > 0}


def unplaceable(config: RunConfig, nodes: Iterable[Mapping[str, float]]) -> list[LaneConfig]:
    """Lanes that do not fit on ``nodes`` were nothing else running there: all their workers at
    once, and beside them the evaluator that stages wait for.

    ``nodes``: for each its total resources, by Ray's names (``{"CPU": 8.0, ...}``).
    """
    nodes = list(nodes)
    cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
    return [
        lane
        for lane in config.lanes
        if _places(needs(lane.resources), nodes) < lane.workers
        or lane.cpus > cpus + 1e-9
        or lane.gpus > gpus + 1e-9
    ]


def _places(need: Mapping[str, float], nodes: Iterable[Mapping[str, float]]) -> float:
    """How many workers that need so much the nodes hold together."""
    return sum(
        min(
            ((node.get(name, 0.0) / amount + 1e-9) // 1 for name, amount in need.items()),
            default=math.inf,
        )
        for node in nodes
    )


def check_resources(config: RunConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse lanes that could never be placed."""
    lines = [
        f"  lanes.{lane.name}.resources: {_amounts(needs(lane.resources))}"
        + (f" for each of {lane.workers} workers" if lane.workers > 1 else "")
        + (f"; with its evaluator {lane.cpus:g} CPUs" if lane.waits_for_scores else "")
        for lane in unplaceable(config, nodes)
    ]
    if lines:
        have = "; ".join(sorted({_amounts(node) for node in nodes}))
        raise InputError(
            "these lanes can never be placed, the nodes are not large enough:\n"
            + "\n".join(lines)
            + f"\nthe nodes have: {have}\nlower the lane's resources, give a larger cluster with "
            "--address, or wait for an autoscaler's nodes with --wait-for-nodes SECONDS"
        )


def _amounts(resources: Mapping[str, float]) -> str:
    hidden = ("node:", "memory", "object_store_memory")
    shown = {name: x for name, x in resources.items() if not name.startswith(hidden)}
    return ", ".join(f"{name} = {amount:g}" for name, amount in sorted(shown.items()))
