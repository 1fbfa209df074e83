"""Base of methods that remember samples while they come, and weigh the samples of a batch.

Letters: B incoming samples, M remembered ones, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.contract import derive_seed
from workers.methods.base import Batch, Method, MethodContext
from workers.methods.memory import Columns, Memory, MemoryConfig, classes_of
from workers.supervised.objectives import Objective


@dataclass(frozen=True, slots=True)
class Targets:
    """Targets of incoming and remembered samples, with more that a loss needs of each."""

    y: Tensor
    """[B, ...], what the stream's objective compares outputs with."""
    more: Columns
    """Name -> [B, ...]."""

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, at: slice) -> Targets:
        return Targets(self.y[at], {name: values[at] for name, values in self.more.items()})


class Online(Method):
    """Offers every incoming batch to the buffer once it was learnt from; a subclass replays.

    A sample is offered as often as it comes, so with several epochs it may be kept more than once.
    Inputs are remembered as they are before augmentation.
    """

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(MemoryConfig):
        """Settings of the buffer."""

        batch: int = 64
        """Remembered samples added to each incoming batch, for each use of them."""

    config: Online.Config
    mixes = True

    def __init__(self, config: Config, seed: int, objective: Objective | None = None) -> None:
        super().__init__(config, seed, objective)
        self.memory = Memory(config.storage, config.buffer, derive_seed(seed, "memory"))
        self._incoming: Batch | None = None

    def extend_batch(self, x: Tensor, y: Tensor) -> Batch:
        self._incoming = x, y
        uses = [self.memory.draw(self.config.batch) for _ in range(self.uses)]
        xs = [x, *(_on(x, drawn["x"]) for drawn in uses if drawn)]
        return torch.cat(xs), self.targets(y, [drawn for drawn in uses if drawn])

    @property
    def uses(self) -> int:
        """Draws from the memory for each step."""
        return 1

    def targets(self, y: Tensor, uses: list[Columns]) -> Targets:
        """Targets of the incoming samples, then of those of each draw; none at first."""
        raise NotImplementedError

    def after_backward(self, context: MethodContext) -> None:
        """Offer the incoming batch; the model is still the one that learnt from it."""
        assert self._incoming is not None, "a step begins with its batch"
        x, y = self._incoming
        self._incoming = None
        label_B = classes_of(self.objective, y)
        self.memory.offer(
            label_B, context.stage.index, lambda at: self.remembered(context, x, y, at.to(x.device))
        )

    def remembered(self, context: MethodContext, x: Tensor, y: Tensor, at: Tensor) -> Columns:
        """What is kept of the incoming samples at these places (int64 [n])."""
        return {"x": x[at], "y": y[at]}

    def state(self) -> dict[str, Tensor]:
        return self.memory.state()

    def load_state(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        self.memory.load_state(state)


def joined(y: Tensor, uses: list[Columns], name: str = "y") -> Tensor:
    """Values of the incoming samples [B, ...], then those remembered of each draw."""
    return torch.cat([y, *(_on(y, drawn[name]) for drawn in uses)])


def weights(y: Tensor, uses: list[Columns], factors: list[float]) -> Tensor:
    """Weight of each sample [B + M ...] by which the mean over all of a loss, weighted, is the mean
    over each group times its factor, summed over the groups: the incoming ones, and each draw."""
    sizes = [len(y), *(len(drawn["y"]) for drawn in uses)]
    total = sum(sizes)
    parts = [
        torch.full((size,), factor * total / size)
        for size, factor in zip(sizes, factors[: len(sizes)], strict=True)
    ]
    return torch.cat(parts).to(y.device)


def _on(x: Tensor, remembered: Tensor) -> Tensor:
    return remembered.to(x.device)
