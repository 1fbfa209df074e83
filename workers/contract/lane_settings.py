"""What a section's ``problems`` may look at: the other checked sections and the lane's tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers.contract.specs import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """A lane as its config says, every section checked by itself."""

    sections: Mapping[str, Any]
    """``stream``, ``model``, ``training``, ``method`` -> its Config."""
    policies: Mapping[str, Any]
    """Name of a policy -> its Config."""
    tasks: tuple[TaskSpec, ...]
    domains: tuple[str, ...]
    """Every domain of the stream, in order of appearance."""
    trainer: str
    acts: bool
    """Whether the trainer learns from what the model itself does."""
    workers: int
    intervals: int
    """Intervals of a stage."""
