"""Reinforcement learning: streams of environments, PPO by RLlib with a model that grows in place.

Importing this package imports neither Ray nor JAX; ``trainer`` and ``evaluator`` do.
"""

from workers.rl.environments.craftax.catalog import ENVIRONMENTS
from workers.rl.settings import PPOTraining
from workers.rl.streams import ENVIRONMENT_STREAMS

TRAININGS = {"ppo": PPOTraining}

__all__ = ["ENVIRONMENTS", "ENVIRONMENT_STREAMS", "TRAININGS"]
