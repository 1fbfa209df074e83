"""A new model at each stage: what training costs and comes to without anything carried over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workers.methods.base import Method
from workers.streams import Part, TaskData
from workers.streams.data import concatenated


class Scratch(Method):
    """Train a model drawn anew at each stage, on the data of all tasks so far or on its own.

    With all data it is retraining from scratch, which no plasticity is lost to (``joint`` goes on
    from the stage before, cumulative training); with its own alone the reference of how well a
    task is learnt by itself (the a* of intransigence, the b of warm-start comparisons).
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        """What each stage is trained on."""

        kind: str = "scratch"
        data: Literal["all", "own"] = "all"
        """``all``: the training data of all tasks so far; ``own``: those of the stage's task."""

    config: Scratch.Config
    needs_past = mixes = plain_start = starts_afresh = True

    def training_data(self, current: TaskData, past: Sequence[TaskData]) -> Part:
        if not past or self.config.data == "own":
            return current.train
        return concatenated([task.train for task in (*past, current)])
