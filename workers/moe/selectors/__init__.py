"""Selectors by name: logits -> which experts run for a token, and their weights."""

from workers.moe.selectors.base import Selector
from workers.moe.selectors.dense import Dense
from workers.moe.selectors.topk import TopK

SELECTORS: dict[str, type] = {"dense": Dense, "topk": TopK}

__all__ = ["SELECTORS", "Dense", "Selector", "TopK"]
