"""Continual-learning methods by name."""

from workers.methods.base import Batch, Method, MethodContext
from workers.methods.plain import Finetune, Joint
from workers.methods.replay import Replay

METHODS: dict[str, type] = {"finetune": Finetune, "joint": Joint, "replay": Replay}
"""Continual-learning methods by name."""

__all__ = ["METHODS", "Batch", "Finetune", "Joint", "Method", "MethodContext", "Replay"]
