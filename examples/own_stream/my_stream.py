"""A stream from outside the repository: two moons, elsewhere in every task."""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import make_moons

from workers.contract import TaskSpec
from workers.streams import Part, Stream, TaskData


class TwoMoons(Stream):
    """Two moons, elsewhere in every task: a small domain-incremental stream."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Stream.Config):
        places: tuple[float, ...] = (-3.0, 0.0, 3.0)

    input_shape, outputs = (2,), 2

    def tasks(self):
        places = enumerate(self.config.places)
        return tuple(TaskSpec(index=i, name=f"at {p:g}", domain="moons") for i, p in places)

    def load(self, task):
        x, y = make_moons(2500, noise=0.1, random_state=self.seed)
        x = x + np.array([0, self.config.places[task.index]])
        train, test = Part(x[:2000], y[:2000]), Part(x[2000:], y[2000:])
        return TaskData.of(train=train, test=test, source=f"two moons {task.name}")
