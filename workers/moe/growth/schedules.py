"""Schedules by name: how many experts each layer has over depth. Pure arithmetic, no torch."""

from workers.moe.growth.depth.base import SCHEDULES, Active, Maps, Schedule, every
from workers.moe.growth.depth.forms import (
    Ascending,
    Constant,
    Descending,
    PyramidDown,
    PyramidUp,
    Uniform,
    WaveDown,
    WaveUp,
)
from workers.moe.growth.depth.matched import BudgetMatched, FlopsMatched
from workers.moe.growth.depth.places import EVERYWHERE, Place, places
from workers.moe.growth.depth.profile import Profile

SCHEDULES |= {
    "constant": Constant,
    "uniform": Uniform,
    "descending": Descending,
    "ascending": Ascending,
    "pyramid_up": PyramidUp,
    "pyramid_down": PyramidDown,
    "wave_down": WaveDown,
    "wave_up": WaveUp,
    "budget_matched": BudgetMatched,
    "flops_matched": FlopsMatched,
    "profile": Profile,
}

__all__ = [
    "EVERYWHERE",
    "SCHEDULES",
    "Active",
    "Ascending",
    "Constant",
    "Descending",
    "Maps",
    "Place",
    "PyramidDown",
    "PyramidUp",
    "Schedule",
    "Uniform",
    "WaveDown",
    "WaveUp",
    "every",
    "places",
]
