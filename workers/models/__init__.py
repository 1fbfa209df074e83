"""Models by name, and what they are put together from. Knows no cluster and no data."""

from workers.models.actor_critic import ActorCritic
from workers.models.backbones import BACKBONES
from workers.models.classifier import Classifier
from workers.models.cores import CORES
from workers.models.heads import HEADS

MODELS: dict[str, type] = {"classifier": Classifier, "actor_critic": ActorCritic}

__all__ = ["BACKBONES", "CORES", "HEADS", "MODELS"]
