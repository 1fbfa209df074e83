"""Ways to make a lane's first model of trained ones, by name. Knows no cluster and no run."""

from workers.merges.base import Merge, Scene
from workers.merges.branch_train_mix import BranchTrainMix
from workers.merges.ridge import Ridge
from workers.merges.select import Select
from workers.merges.upcycle import UpcycleDense

MERGES: dict[str, type] = {
    "upcycle": UpcycleDense,
    "branch_train_mix": BranchTrainMix,
    "ridge": Ridge,
    "select": Select,
}

__all__ = ["MERGES", "BranchTrainMix", "Merge", "Ridge", "Scene", "Select", "UpcycleDense"]
