"""An environment from outside the repository, as gymnasium has them."""

import gymnasium
import numpy as np


class Corridor(gymnasium.Env):
    """Walk to the right end: a step costs a little, the end gives 1."""

    def __init__(self, length=6):
        self.length = length
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return self._seen(), {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action == 1 else -1))
        arrived = self.place == self.length
        return self._seen(), 1.0 if arrived else -0.01, arrived, False, {}

    def _seen(self):
        return np.array([self.place / self.length, 1.0 / self.length], np.float32)
