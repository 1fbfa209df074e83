"""Reinforcement learning: Craftax task streams, PPO by RLlib with a model that grows in place.

Importing this package imports neither Ray nor JAX; ``trainer`` and ``evaluator`` do.
"""

from workers.rl.settings import PPOTraining
from workers.rl.stream import ENVIRONMENTS, CraftaxStream

STREAM = {"craftax": CraftaxStream}
TRAINING = {"ppo": PPOTraining}

__all__ = ["ENVIRONMENTS", "STREAM", "TRAINING"]
