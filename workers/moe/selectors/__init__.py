"""Selectors by name: logits -> which experts run for a token, and their weights."""

from workers.moe.selectors.base import Selector
from workers.moe.selectors.dense import Dense
from workers.moe.selectors.expert_choice import ExpertChoice
from workers.moe.selectors.gshard import GShard
from workers.moe.selectors.loss_free import LossFree
from workers.moe.selectors.percentile_batch import PercentileBatch
from workers.moe.selectors.percentile_token import PercentileToken
from workers.moe.selectors.switch import Switch
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
