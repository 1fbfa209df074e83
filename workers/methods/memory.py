"""Remembered samples: a buffer's choice of them, and what is kept of each.

Knows tensors and buffers; nothing of models and stages. Letters: N samples offered, n kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.contract import LaneSettings
from workers.methods.base import Method
from workers.methods.buffers import BUFFERS, Buffer
from workers.streams import Part
from workers.supervised.objectives import Objective
from workers.tables import Problem, choice, construct, lookup

Columns = dict[str, Tensor]
"""What is kept of samples, by name: each [n, ...], on the CPU."""


class Memory:
    """At most ``size`` samples, chosen by a buffer of the table and drawn by a generator."""

    def __init__(self, buffer: Any, size: int, seed: int) -> None:
        """``buffer``: Config of an entry of BUFFERS; ``seed``: of all draws."""
        self.generator = torch.Generator().manual_seed(seed)
        self.buffer: Buffer = construct(BUFFERS, buffer, size, self.generator)
        self.columns: Columns = {}

    def __len__(self) -> int:
        """Samples remembered."""
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def offer(self, label_N: Tensor, task: int, rows: Callable[[Tensor], Columns]) -> None:
        """Offer N samples in their order (see ``Buffer.offer``).

        ``rows``: what is to be kept of the samples at these places (int64 [n]), asked once for
        those that are kept, if any.
        """
        slots, samples = self.buffer.offer(label_N.cpu(), task)
        if not len(slots):
            return
        size = max(len(self), int(slots.max()) + 1)
        for name, values in rows(samples).items():
            values = values.detach().cpu()
            self.columns[name] = _with_room(self.columns.get(name), size, values)
            self.columns[name][slots] = values

    def draw(self, samples: int) -> Columns:
        """So many different samples drawn evenly, or all of them in random order."""
        drawn = torch.randperm(len(self), generator=self.generator)[:samples]
        return {name: values[drawn] for name, values in self.columns.items()}

    def state(self) -> Columns:
        """Copies of everything, to be stored with the method's state."""
        copies = {name: values.clone() for name, values in self.columns.items()}
        return {**copies, **self.buffer.state(), "rng": self.generator.get_state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on exactly where ``state`` was taken."""
        own = {"rng", *self.buffer.state()}
        self.columns = {
            name: values.cpu().clone() for name, values in state.items() if name not in own
        }
        self.buffer.load_state(state)
        self.generator.set_state(state["rng"].cpu().clone())


def _with_room(column: Tensor | None, slots: int, like: Tensor) -> Tensor:
    """The column with as many rows, of the shape and type of ``like``'s."""
    if column is not None and len(column) == slots:
        return column
    grown = torch.empty((slots, *like.shape[1:]), dtype=like.dtype)
    if column is not None:
        grown[: len(column)] = column
    return grown


def rows_of(part: Part) -> Callable[[Tensor], Columns]:
    """Inputs and targets of a part's samples, for ``Memory.offer``."""
    return lambda at: {"x": part.x[at], "y": part.y[at]}


def classes_of(objective: Objective | None, y: Any) -> Tensor:
    """Class of each sample, int64 [N]; all 0 where the objective knows none."""
    classes = None if objective is None else objective.classes(y)
    return torch.zeros(len(y), dtype=torch.int64) if classes is None else classes


def needs_classes(lane: LaneSettings, path: str, what: str) -> list[Problem]:
    """The problem of ``what`` (at ``path`` of the method) where targets are no class labels."""
    if lane.labels:
        return []
    kind = lane.sections["stream"].objective.kind
    found = f"{what} tells classes apart, objective {kind!r} has none"
    return [Problem(path, found, "use a stream of labelled samples: objective classification")]


def buffer_problems(lane: LaneSettings, buffer: Any) -> list[Problem]:
    """What of the method's setting ``storage`` does not fit the lane."""
    cls = lookup(BUFFERS, buffer.kind, "storage")
    if isinstance(cls, Problem) or not cls.needs_classes:  # type: ignore[attr-defined]
        return []
    return needs_classes(lane, "storage", f"buffer {buffer.kind!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig(Method.Config):
    """Settings of methods that draw from a memory of samples."""

    buffer: int = 500
    """Samples remembered over the whole stream."""
    batch: int = 64
    """Remembered samples of each draw."""
    storage: Any = choice(BUFFERS, "reservoir")
    """Which samples are remembered."""

    def __post_init__(self) -> None:
        for name in ("buffer", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    def problems(self, lane: LaneSettings) -> list[Problem]:
        """A buffer that is balanced over classes needs some."""
        return buffer_problems(lane, self.storage)
