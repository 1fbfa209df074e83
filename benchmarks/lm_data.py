"""Made-up token windows for benchmarks of language models, and a stream of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.contract import TaskSpec
from workers.streams.base import Stream
from workers.streams.data import Part, TaskData
from workers.supervised.objectives import LanguageModelling
from workers.tables import choice

TASK = TaskSpec(index=0, name="sawtooth", domain="sawtooth")


def windows(samples: int, window: int, vocabulary: int) -> Tensor:
    """Token windows int64 [N, S + 1]: a sawtooth with noise, which can be learnt."""
    generator = torch.Generator().manual_seed(7)
    start = torch.randint(0, vocabulary, (samples, 1), generator=generator)
    noise = torch.randint(0, 3, (samples, window + 1), generator=generator)
    return (start + 5 * torch.arange(window + 1) + noise) % vocabulary


class Sawtooth(Stream):
    """One task of the windows; a token is one byte of text."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """Sizes of the windows."""

        kind: str = "benchmarks.lm_data:Sawtooth"
        objective: Any = choice({"language_modelling": LanguageModelling}, "language_modelling")
        validation: float = 0.0
        samples: int = 96
        window: int = 32
        vocabulary: int = 96

    input_type = "integer"

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        assert isinstance(self.objective, LanguageModelling)
        self.objective.measure_in(torch.ones(config.vocabulary, dtype=torch.int64))

    def tasks(self) -> tuple[TaskSpec, ...]:
        return (TASK,)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.config.window,)

    @property
    def outputs(self) -> int:
        return self.config.vocabulary

    def load(self, task: TaskSpec) -> TaskData:
        whole = windows(self.config.samples, self.config.window, self.config.vocabulary)
        part = Part(whole[:, :-1], whole[:, 1:])
        return TaskData.of(train=part, test=part.take(torch.arange(4)), source="sawtooth")
