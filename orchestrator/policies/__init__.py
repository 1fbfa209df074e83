"""Pure deciders: what to change in a model between intervals. They decide, they never do."""

from orchestrator.policies.growth import NoGrowth, Periodic

GROWTH: dict[str, type] = {"none": NoGrowth, "periodic": Periodic}
