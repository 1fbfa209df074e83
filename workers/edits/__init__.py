"""Changes to a model between two intervals, as frozen values: one file a kind."""

from workers.edits.adapt_router import AdaptRouter
from workers.edits.base import Cause, Change, Edit, EditProbe, Forward, Parents
from workers.edits.compress_experts import CompressExperts
from workers.edits.factor_latent import FactorLatent
from workers.edits.fit_router import FitRouter
from workers.edits.freeze_old import FreezeOld
from workers.edits.grow import Grow
from workers.edits.prune import Prune
from workers.edits.recycle_dormant import RecycleDormant
from workers.edits.refresh_mask import Duplicate, RefreshMask
from workers.edits.set_phase import ROLES, Role, SetPhase
from workers.edits.shrink_perturb import Reset, ShrinkPerturb

EDITS: dict[str, type[Edit]] = {
    "grow": Grow,
    "prune": Prune,
    "compress_experts": CompressExperts,
    "factor_latent": FactorLatent,
    "refresh_mask": RefreshMask,
    "set_phase": SetPhase,
    "adapt_router": AdaptRouter,
    "fit_router": FitRouter,
    "freeze_old": FreezeOld,
    "recycle_dormant": RecycleDormant,
    "reset": Reset,
    "shrink_perturb": ShrinkPerturb,
}
"""Kinds of edit by name."""

__all__ = [
    "EDITS",
    "ROLES",
    "AdaptRouter",
    "Cause",
    "Change",
    "CompressExperts",
    "Duplicate",
    "Edit",
    "EditProbe",
    "FactorLatent",
    "FitRouter",
    "Forward",
    "FreezeOld",
    "Grow",
    "Parents",
    "Prune",
    "RecycleDormant",
    "RefreshMask",
    "Reset",
    "Role",
    "SetPhase",
    "ShrinkPerturb",
]
