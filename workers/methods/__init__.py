"""Continual-learning methods by name."""

from workers.methods.base import Batch, Method, MethodContext
from workers.methods.der import Der, DerPlusPlus
from workers.methods.er_ace import ErAce
from workers.methods.gdumb import GDumb
from workers.methods.icarl import ICaRL
from workers.methods.plain import Finetune, Joint
from workers.methods.replay import Replay
from workers.methods.scratch import Scratch

METHODS: dict[str, type] = {
    "finetune": Finetune,
    "joint": Joint,
    "scratch": Scratch,
    "replay": Replay,
    "er_ace": ErAce,
    "der": Der,
    "der++": DerPlusPlus,
    "gdumb": GDumb,
    "icarl": ICaRL,
}
"""Continual-learning methods by name."""

__all__ = ["METHODS", "Batch", "Finetune", "Joint", "Method", "MethodContext", "Replay"]
