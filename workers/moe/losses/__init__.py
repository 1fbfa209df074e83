"""Losses by name: what a layer adds to the task's loss in training."""

from workers.moe.losses.balance import Balance
from workers.moe.losses.base import Loss
from workers.moe.losses.exclusivity import Exclusivity
from workers.moe.losses.importance import Importance
from workers.moe.losses.new_specialisation import NewSpecialisation
from workers.moe.losses.router_entropy import RouterEntropy
from workers.moe.losses.z import ZLoss

LOSSES: dict[str, type] = {
    "balance": Balance,
    "importance": Importance,
    "router_entropy": RouterEntropy,
    "z": ZLoss,
    "exclusivity": Exclusivity,
    "new_specialisation": NewSpecialisation,
}

__all__ = ["LOSSES", "Balance", "Importance", "Loss", "RouterEntropy", "ZLoss"]
