"""Reinforcement learning: streams of environments, PPO by RLlib with a model that grows in place.

Importing this package imports neither Ray nor JAX; ``trainer`` and ``evaluator`` import Ray, and
engines that run on JAX import that.
"""

import logging
import os

from workers.rl.environments.craftax.catalog import ENVIRONMENTS
from workers.rl.settings import PPOTraining
from workers.rl.streams import ENVIRONMENT_STREAMS

# RLlib imports JAX and flax wherever they are installed, for algorithms that no lane has: a tenth
# of a gigabyte and some three CPU-seconds in every process that trains or plays.
os.environ.setdefault("RLLIB_TEST_NO_JAX_IMPORT", "1")
logging.getLogger("ray.rllib.utils.framework").addFilter(
    lambda record: "Not importing JAX" not in record.getMessage()
)

TRAININGS = {"ppo": PPOTraining}

__all__ = ["ENVIRONMENTS", "ENVIRONMENT_STREAMS", "TRAININGS"]
