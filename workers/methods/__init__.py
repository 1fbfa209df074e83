"""Continual-learning methods by name."""

from workers.methods.base import Batch, Method, MethodContext
from workers.methods.esft import EsftGate, EsftToken
from workers.methods.plain import Finetune, Joint
from workers.methods.replay import Replay

METHODS: dict[str, type] = {
    "finetune": Finetune,
    "joint": Joint,
    "replay": Replay,
    "esft_token": EsftToken,
    "esft_gate": EsftGate,
}
"""Continual-learning methods by name."""

__all__ = [
    "METHODS",
    "Batch",
    "EsftGate",
    "EsftToken",
    "Finetune",
    "Joint",
    "Method",
    "MethodContext",
    "Replay",
]
