"""A stream of made-up languages: each domain is a Markov chain of its own over all tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from tests.families import VOCABULARY, WINDOW
from workers.contract import TaskSpec
from workers.streams.base import InputType, Stream
from workers.streams.data import Part, TaskData
from workers.supervised.objectives import LanguageModelling
from workers.tables import choice

KIND = "tests.chains:Chains"
DOMAINS = ("base", "north", "south")


class Chains(Stream):
    """One task a domain; windows of tokens drawn from its chain, each token one byte of text."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        """How many windows."""

        kind: str = KIND
        objective: Any = choice({"language_modelling": LanguageModelling}, "language_modelling")
        windows: int = 48
        joint: bool = False
        """All domains but the first in one task."""

    input_type: InputType = "integer"
    input_shape: ClassVar[tuple[int, ...]] = (WINDOW,)  # type: ignore[misc, assignment]
    outputs = VOCABULARY  # type: ignore[assignment]
    objective: LanguageModelling

    def __init__(self, config: Any, seed: int) -> None:
        super().__init__(config, seed)
        self.objective.measure_in(torch.ones(VOCABULARY, dtype=torch.int64))

    def tasks(self) -> tuple[TaskSpec, ...]:
        if not self.config.joint:
            return tuple(
                TaskSpec(index=i, name=name, domain=name) for i, name in enumerate(DOMAINS)
            )
        later = list(DOMAINS[1:])
        return (
            TaskSpec(index=0, name="base", domain="base"),
            TaskSpec(index=1, name="joint", domain="joint", settings={"domains": later}),
        )

    def load(self, task: TaskSpec) -> TaskData:
        found = {}
        for part, windows in (("train", self.config.windows), ("test", 16)):
            drawn = [self._windows(name, part, windows) for name in task.domains]
            domain = torch.arange(len(drawn)).repeat_interleave(windows)
            whole = torch.cat(drawn)
            several = domain if len(drawn) > 1 else None
            found[part] = Part(whole[:, :-1], whole[:, 1:], several)
        return TaskData.of(train=found["train"], test=found["test"], source=task.name)

    def _windows(self, name: str, part: str, windows: int) -> torch.Tensor:
        rng = np.random.default_rng(DOMAINS.index(name))
        follower = rng.integers(0, VOCABULARY, (VOCABULARY, 3))
        rng = np.random.default_rng([self.seed, DOMAINS.index(name), part == "test"])
        tokens = np.empty((windows, WINDOW + 1), dtype=np.int64)
        tokens[:, 0] = rng.integers(0, VOCABULARY, windows)
        for place in range(WINDOW):
            turn = rng.integers(0, 3, windows)
            tokens[:, place + 1] = follower[tokens[:, place], turn]
        return torch.from_numpy(tokens)
