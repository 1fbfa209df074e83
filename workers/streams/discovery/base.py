"""What finds domains in samples, and how well those it finds agree with the true ones.

Letters: N samples, D numbers of an input, K domains found at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from workers.contract import derive_seed


class Discovery:
    """Tells each sample's domain from its input. A subclass gives ``found`` and ``learn`` or
    ``prepare``."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """Settings; ``kind`` is its name in the table."""

        kind: str

    looks_ahead: ClassVar[bool] = False
    """Whether ``prepare`` is given samples of all tasks before the first one is learnt."""

    def __init__(self, config: Any, seed: int, domains: int) -> None:
        """``domains``: true ones of the stream."""
        self.config, self.seed, self.domains = config, seed, domains

    @property
    def most(self) -> int:
        """K: domains that it finds at most, known before any data are seen."""
        raise NotImplementedError

    def prepare(self, x_ND: Tensor) -> None:
        """Look at training samples of all tasks, float64, where it ``looks_ahead``."""

    def learn(self, x_ND: Tensor, true_N: Tensor, task: int) -> Tensor:
        """Domain of each training sample of the next task in order, int64 [N]; what it learns from
        them counts for later tasks."""
        return self.found(x_ND, true_N, task)

    def found(self, x_ND: Tensor, true_N: Tensor, task: int) -> Tensor:
        """Domain of each other sample of a task, int64 [N], of K; changes nothing."""
        raise NotImplementedError

    def generator(self, *parts: Any) -> torch.Generator:
        """A random generator that depends on the seed and the parts."""
        return torch.Generator().manual_seed(derive_seed(self.seed, "discovery", *parts))
