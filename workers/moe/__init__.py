"""The model room: layers, routers, experts and their growth. Knows no cluster and no data."""

from workers.moe.actor_critic import ActorCritic
from workers.moe.backbones import BACKBONES
from workers.moe.classifier import Classifier
from workers.moe.cores import CORES
from workers.moe.experts import EXPERTS
from workers.moe.heads import HEADS
from workers.moe.initialisers import INITIALISERS
from workers.moe.routers import ROUTERS
from workers.moe.schedules import SCHEDULES
from workers.moe.selectors import SELECTORS

MODELS: dict[str, type] = {"classifier": Classifier, "actor_critic": ActorCritic}

__all__ = [
    "BACKBONES",
    "CORES",
    "EXPERTS",
    "HEADS",
    "INITIALISERS",
    "MODELS",
    "ROUTERS",
    "SCHEDULES",
    "SELECTORS",
]
