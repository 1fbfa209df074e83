"""Streams of environments by kind."""

from workers.rl.streams.base import EnvironmentStream
from workers.rl.streams.craftax import CraftaxStream
from workers.rl.streams.environments import Environments

ENVIRONMENT_STREAMS: dict[str, type] = {"craftax": CraftaxStream, "environments": Environments}

__all__ = ["ENVIRONMENT_STREAMS", "CraftaxStream", "EnvironmentStream", "Environments"]
