"""Pure deciders: what to change in a model between intervals. They decide, they never do."""

from orchestrator.policies.growth import NoGrowth, Periodic
from orchestrator.policies.masks import FixedMasks, NoMasks, UsageMasks
from orchestrator.policies.phases import NoPhases, ThreePhases

GROWTH: dict[str, type] = {"none": NoGrowth, "periodic": Periodic}
"""Growth policies: when experts are added, how many, and how they are initialised."""

MASKS: dict[str, type] = {"none": NoMasks, "usage": UsageMasks, "fixed": FixedMasks}
"""Mask policies: which experts each domain may train, and when that is decided anew."""

PHASES: dict[str, type] = {"none": NoPhases, "three": ThreePhases}
"""Phase policies: which parts of the model a stage trains when."""
