"""A method from outside the repository."""

from dataclasses import dataclass

import torch

from workers.methods import Method
from workers.streams import Part


class KeepFirst(Method):
    """Train on the current task and on the first samples of every class seen."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(Method.Config):
        per_class: int = 20

    mixes = True  # a batch holds samples of several tasks

    def __init__(self, config, seed, objective=None):
        super().__init__(config, seed, objective)
        self.x, self.y = torch.empty(0), torch.empty(0, dtype=torch.int64)

    def training_data(self, current, past):
        if not len(self.y):
            return current.train
        train = current.train
        return Part(torch.cat([self.x, train.x]), torch.cat([self.y, train.y]))

    def end_stage(self, context):
        train = context.data.train
        for label in train.y.unique():
            first = train.take(torch.nonzero(train.y == label).flatten()[: self.config.per_class])
            self.x = torch.cat([self.x, first.x]) if len(self.y) else first.x
            self.y = torch.cat([self.y, first.y])

    def state(self):
        return {"x": self.x.clone(), "y": self.y.clone()}

    def load_state(self, state, model):
        self.x, self.y = state["x"].clone(), state["y"].clone()
