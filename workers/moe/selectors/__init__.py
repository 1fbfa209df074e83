"""Selectors by name: logits -> which experts run for a token, and their weights."""

from workers.moe.selectors.base import Selector
from workers.moe.selectors.batch_coreset import BatchCoreset
from workers.moe.selectors.dense import Dense
from workers.moe.selectors.drift_guard import DriftGuard
from workers.moe.selectors.expert_choice import ExpertChoice
from workers.moe.selectors.gshard import GShard
from workers.moe.selectors.learned_topany import LearnedTopAny
from workers.moe.selectors.loss_free import LossFree
from workers.moe.selectors.percentile_batch import PercentileBatch
from workers.moe.selectors.percentile_token import PercentileToken
from workers.moe.selectors.ratio_skip import RatioSkip
from workers.moe.selectors.switch import Switch
from workers.moe.selectors.top_any import TopAny
from workers.moe.selectors.top_p import TopP
from workers.moe.selectors.topk import TopK

SELECTORS: dict[str, type] = {
    "dense": Dense,
    "expert_choice": ExpertChoice,
    "gshard": GShard,
    "loss_free": LossFree,
    "percentile_batch": PercentileBatch,
    "percentile_token": PercentileToken,
    "switch": Switch,
    "top_p": TopP,
    "topk": TopK,
    "batch_coreset": BatchCoreset,
    "drift_guard": DriftGuard,
    "learned_topany": LearnedTopAny,
    "ratio_skip": RatioSkip,
    "top_any": TopAny,
}

__all__ = [
    "SELECTORS",
    "Dense",
    "ExpertChoice",
    "GShard",
    "LossFree",
    "PercentileBatch",
    "PercentileToken",
    "Selector",
    "Switch",
    "TopK",
    "TopP",
]
