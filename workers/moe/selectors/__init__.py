"""Selectors by name: logits -> which experts run for a token, and their weights."""

from workers.moe.selectors.base import Selector
from workers.moe.selectors.dense import Dense
from workers.moe.selectors.percentile_batch import PercentileBatch
from workers.moe.selectors.percentile_token import PercentileToken
from workers.moe.selectors.top_p import TopP
from workers.moe.selectors.topk import TopK

SELECTORS: dict[str, type] = {
    "dense": Dense,
    "percentile_batch": PercentileBatch,
    "percentile_token": PercentileToken,
    "top_p": TopP,
    "topk": TopK,
}

__all__ = [
    "SELECTORS",
    "Dense",
    "PercentileBatch",
    "PercentileToken",
    "Selector",
    "TopK",
    "TopP",
]
