"""Ways to make a lane's first model of trained ones, by name. Knows no cluster and no run."""

from workers.merges.base import Merge, Scene
from workers.merges.branch_train_mix import BranchTrainMix
from workers.merges.upcycle import UpcycleDense

MERGES: dict[str, type] = {
    "upcycle": UpcycleDense,
    "branch_train_mix": BranchTrainMix,
}

__all__ = ["MERGES", "BranchTrainMix", "Merge", "Scene", "UpcycleDense"]
