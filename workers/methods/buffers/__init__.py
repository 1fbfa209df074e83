"""Buffers by name: which samples of a stream a memory of fixed size keeps."""

from workers.methods.buffers.balanced import ClassBalanced, TaskBalanced
from workers.methods.buffers.base import Buffer
from workers.methods.buffers.greedy import Greedy
from workers.methods.buffers.reservoir import Reservoir

BUFFERS: dict[str, type] = {
    "reservoir": Reservoir,
    "class_balanced": ClassBalanced,
    "task_balanced": TaskBalanced,
    "greedy": Greedy,
}
"""Buffers by name."""

__all__ = ["BUFFERS", "Buffer", "ClassBalanced", "Greedy", "Reservoir", "TaskBalanced"]
