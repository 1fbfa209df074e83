"""Continual-learning methods by name."""

from workers.methods.agem import AGEM
from workers.methods.base import Batch, Method, MethodContext
from workers.methods.continual_backprop import ContinualBackprop
from workers.methods.der import Der, DerPlusPlus
from workers.methods.er_ace import ErAce
from workers.methods.ewc import EWC
from workers.methods.gdumb import GDumb
from workers.methods.hare_tortoise import HareTortoise
from workers.methods.icarl import ICaRL
from workers.methods.l2_init import L2Init
from workers.methods.lwf import LwF
from workers.methods.mas import MAS
from workers.methods.online_ewc import OnlineEWC
from workers.methods.packnet import PackNet
from workers.methods.plain import Finetune, Joint
from workers.methods.replay import Replay
from workers.methods.scratch import Scratch
from workers.methods.self_normalized_resets import SelfNormalizedResets
from workers.methods.si import SI

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
    "l2_init": L2Init,
    "hare_tortoise": HareTortoise,
    "continual_backprop": ContinualBackprop,
    "self_normalized_resets": SelfNormalizedResets,
    "ewc": EWC,
    "online_ewc": OnlineEWC,
    "si": SI,
    "mas": MAS,
    "lwf": LwF,
    "agem": AGEM,
    "packnet": PackNet,
}
"""Continual-learning methods by name."""

__all__ = ["METHODS", "Batch", "Finetune", "Joint", "Method", "MethodContext", "Replay"]
