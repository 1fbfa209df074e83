"""The model room: layers, routers, experts and their growth. Knows no cluster and no data."""

from workers.moe.experts import EXPERTS
from workers.moe.growth.initialisers import INITIALISERS
from workers.moe.growth.schedules import SCHEDULES
from workers.moe.layers import LAYERS
from workers.moe.losses import LOSSES
from workers.moe.routers import ROUTERS
from workers.moe.selectors import SELECTORS
from workers.moe.upcycles import UPCYCLES

__all__ = [
    "EXPERTS",
    "INITIALISERS",
    "LAYERS",
    "LOSSES",
    "ROUTERS",
    "SCHEDULES",
    "SELECTORS",
    "UPCYCLES",
]
