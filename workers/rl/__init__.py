"""Reinforcement learning: Craftax task streams, PPO by RLlib with a model that grows in place.

Importing this package imports neither Ray nor JAX; ``trainer`` and ``evaluator`` do.
"""

from workers.rl.stream import ENVIRONMENTS, CraftaxStream
from workers.rl.training import PPOTraining

STREAM = {"craftax": CraftaxStream}
TRAINING = {"ppo": PPOTraining}

__all__ = ["ENVIRONMENTS", "STREAM", "TRAINING"]
