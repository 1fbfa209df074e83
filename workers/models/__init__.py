"""Models by name, and what they are put together from. Knows no cluster and no data.

An entry is a subclass of ``Model`` that says what it can do; which one a lane may use is decided
by its capabilities alone.
"""

from __future__ import annotations

from workers.models.acting import ActingModel
from workers.models.actor_critic import ActorCritic
from workers.models.backbones import BACKBONES
from workers.models.base import Model
from workers.models.classifier import Classifier
from workers.models.cores import CORES
from workers.models.decoder import Decoder
from workers.models.heads import HEADS
from workers.models.huggingface import HuggingFace
from workers.tables import Problem, lookup

MODELS: dict[str, type[Model]] = {
    "classifier": Classifier,
    "actor_critic": ActorCritic,
    "decoder": Decoder,
    "huggingface": HuggingFace,
}

__all__ = ["BACKBONES", "CORES", "HEADS", "MODELS", "ActingModel", "Model", "capability_problem"]


def capability_problem(kind: str, needed: str, path: str) -> Problem | None:
    """Why the model behind ``kind`` (a name of MODELS or ``module:Class``) lacks a capability."""
    found = lookup(MODELS, kind, path)
    if isinstance(found, Problem):
        return found
    if not issubclass(found, Model):
        return Problem(path, f"{kind!r} is no Model", "subclass workers.models.Model")
    if needed in found.capabilities:
        return None
    able = ", ".join(sorted(name for name, cls in MODELS.items() if needed in cls.capabilities))
    can = ", ".join(sorted(found.capabilities)) or "nothing"
    return Problem(
        path,
        f"{kind!r} is a model for: {can}",
        f"the stream needs one for {needed}: {able}, or a Model with this capability as "
        "module:Class",
    )
